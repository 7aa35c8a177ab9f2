// What http.c (the daemon in the loop, its connections) and exchange.c (one request and its answer) share.
#ifndef SP_GATEWAY_HTTP_IMPL_H
#define SP_GATEWAY_HTTP_IMPL_H

#include <microhttpd.h>

#include "services/gateway/http.h"

typedef enum { PHASE_HEADERS, PHASE_BODY, PHASE_ANSWER, PHASE_IDLE } phase_t;

struct sp_http_conn {
    sp_http_conn_t *next;  // list
    sp_http_conn_t **link; // what points here
    int fd;                // socket
    phase_t phase;         // whose time limit counts
    int64_t since_ms;      // monotonic start of the phase
};

struct sp_http {
    zloop_t *loop;               // borrowed
    struct MHD_Daemon *daemon;   // libmicrohttpd's
    int epoll_fd;                // to poll
    sp_http_options_t options;   // limits
    sp_http_handlers_t handlers; // service
    sp_http_conn_t *conns;       // open connections
    int n_conns;                 // count
    int in_flight;               // handed on, not answered
    int tick;                    // timer id
    int soon;                    // timer id of a run that cannot wait for the tick, or -1
    bool running;                // inside MHD_run
    bool again;                  // another run is needed
    int listen_fd;               // closed by libmicrohttpd, or by us after quiesce
    bool quiesced;               // listen_fd is ours
    char endpoint[300];          // URL
};

// Lets libmicrohttpd do all that it can.
void http_run(sp_http_t *self);
// A connection's next phase begins now. NULL is none.
void http_enter(sp_http_conn_t *conn, phase_t phase);

// libmicrohttpd's callbacks for a request: its address is known, a piece of it is there, it is over.
void *exchange_on_uri(void *cls, const char *uri, struct MHD_Connection *con);
enum MHD_Result exchange_on_access(void *cls, struct MHD_Connection *con, const char *url,
                                   const char *method, const char *version, const char *data,
                                   size_t *size, void **con_cls);
void exchange_on_completed(void *cls, struct MHD_Connection *con, void **con_cls,
                           enum MHD_RequestTerminationCode code);

#endif
