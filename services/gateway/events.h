// Events: what managers and health services publish, handed on to browsers and scripts as server-sent events.
#ifndef SP_GATEWAY_EVENTS_H
#define SP_GATEWAY_EVENTS_H

#include "common/base/error.h"
#include "schemas/shard.h"
#include "services/gateway/http.h"

typedef struct sp_events sp_events_t;

typedef struct sp_events_stats {
    int64_t clients;   // connected
    int64_t published; // events handed on
    int64_t dropped;   // clients cut off because they did not read
} sp_events_stats_t;

int sp_events_open(sp_events_t **ret_self, zloop_t *loop, int max_clients, sp_error_t *err);
// Ends all streams; the HTTP side must still be open.
void sp_events_close(sp_events_t **self_p);
// Subscribes to the publishers in the list, and leaves those that are not in it any more.
void sp_events_sync(sp_events_t *self, const sp_msg_service_t *services, size_t n);
// Answers with the stream. Last-Event-ID: what came after it is sent first where it is still known; a `gap` event tells where it is
// not. SP_E_RATE_LIMITED when there are too many clients: then x is not answered.
int sp_events_attach(sp_events_t *self, sp_exchange_t *x, sp_error_t *err);
void sp_events_stats(const sp_events_t *self, sp_events_stats_t *ret_stats);

#endif
