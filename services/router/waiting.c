#include "services/router/waiting.h"

#include <stdlib.h>

#include "common/base/clock.h"

enum { WAIT_MS = 250, MOST = 1000 };

struct waiting {
    waiting_t *next;       // in no order
    sp_request_t *request; // kept
    sp_handler_fn *handle; // its handler
};

static int64_t age_ms(const sp_request_t *request)
{
    return (sp_clock_mono_us() - request->received_mono_us) / 1000;
}

bool waiting_keep(router_t *self, sp_str_t keyspace, sp_request_t *request, sp_handler_fn *handle)
{
    const sp_catalog_keyspace_view_t *k = NULL;
    if (router_keyspace(self, keyspace, &k, NULL) == 0 && k->ring != NULL &&
        sp_ring_tokens_n(k->ring) > 0)
        return false;
    if (age_ms(request) >= WAIT_MS || self->n_waiting >= MOST)
        return false;
    waiting_t *w = malloc(sizeof *w);
    if (w == NULL)
        return false;
    *w = (waiting_t){self->waiting, request, handle};
    self->waiting = w;
    self->n_waiting++;
    sp_request_keep(request);
    return true;
}

// Takes the list off first: a handler may keep its request again.
static void handle_again(router_t *self, bool all)
{
    waiting_t *list = self->waiting, *next;
    self->waiting = NULL;
    self->n_waiting = 0;
    for (; list != NULL; list = next) {
        next = list->next;
        if (all || age_ms(list->request) >= WAIT_MS) {
            list->handle(self, list->request);
            free(list);
        } else {
            list->next = self->waiting;
            self->waiting = list;
            self->n_waiting++;
        }
    }
}

void waiting_tick(router_t *self)
{
    if (self->waiting != NULL)
        handle_again(self, false);
}

void waiting_wake(router_t *self)
{
    if (self->waiting != NULL)
        handle_again(self, true);
}

void waiting_stop(router_t *self)
{
    waiting_t *next;
    for (; self->waiting != NULL; self->waiting = next) {
        next = self->waiting->next;
        sp_request_fail(&self->waiting->request, SP_E_UNAVAILABLE, "the router is stopping");
        free(self->waiting);
    }
    self->n_waiting = 0;
}
