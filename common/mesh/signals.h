// Signals: SIGTERM, SIGINT and SIGHUP as events of a zloop; SIGPIPE does nothing.
#ifndef SP_MESH_SIGNALS_H
#define SP_MESH_SIGNALS_H

#include <czmq.h>

#include "common/base/error.h"

// One a process. While it is open, signals reach the loop through a pipe; handlers do not pass to programs that are exec'ed.
typedef struct sp_signals sp_signals_t;
// Called in the loop. Returns 0 to go on, -1 to end the loop.
typedef int(sp_signal_fn)(void *arg, int signo);

// Also takes czmq's own handlers away, so call it before the first socket. on_signal NULL: SIGTERM and SIGINT end the loop,
// SIGHUP is ignored. SP_E_CONFLICT when one is open already, SP_E_IO.
int sp_signals_open(sp_signals_t **ret_self, zloop_t *loop, sp_signal_fn *on_signal, void *arg,
                    sp_error_t *err);
void sp_signals_close(sp_signals_t **self_p);

// czmq without its signal handlers and with its warnings on stderr; zloop that does not look at signals. sp_signals_open does it
// too; tools without a loop, and tests, call it first.
void sp_mesh_setup(void);
// A zloop that only its handlers end. NULL when memory runs out.
zloop_t *sp_mesh_loop(void);
// Calls fn when the descriptor can be read, and stays when it fails (a tolerant poller). SP_E_OUT_OF_MEMORY.
int sp_mesh_poll(zloop_t *loop, int fd, zloop_fn *fn, void *arg, sp_error_t *err);
// Runs the loop until a handler ends it (returns -1). zloop_start alone also ends whenever a signal interrupts its poll, before the
// signal's own handler has been asked.
void sp_mesh_run(zloop_t *loop);

#endif
