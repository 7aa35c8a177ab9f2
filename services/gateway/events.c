#include "services/gateway/events.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/random.h"
#include "common/mesh/mesh.h"
#include "common/wire/json_write.h"
#include "schemas/envelope.h"

#define HEARTBEAT_MS 5000
// Bytes that wait for a client before it counts as one that does not read.
#define CLIENT_QUEUE_MAX ((size_t)256 * 1024)
// Events kept for clients that come back.
#define HISTORY 512
#define BOOT_ID 8

typedef struct source {
    struct source *next;  // list
    char id[256];         // service id
    char endpoint[256];   // PUB socket
    sp_subscriber_t *sub; // subscription
    sp_events_t *owner;   // events
    bool heard;           // the first event has come
    bool listed;          // in the list being taken over
} source_t;

typedef struct client {
    struct client *next;  // list
    struct client **link; // what points here
    sp_events_t *owner;   // events; NULL once they are closed
    sp_exchange_t *x;     // its connection
    sp_buf_t queue;       // text not sent yet
    size_t sent;          // bytes of it that are
    bool cut;             // being dropped
} client_t;

struct sp_events {
    zloop_t *loop;           // borrowed
    source_t *sources;       // publishers
    client_t *clients;       // listeners
    int max_clients;         // bound
    int tick;                // timer
    int64_t sequence;        // last id given
    char boot[BOOT_ID + 1];  // tells ids of this process from another's
    char *history[HISTORY];  // text of event n in slot n % HISTORY
    sp_events_stats_t stats; // counts
};

static ssize_t on_read(void *arg, char *buf, size_t max)
{
    client_t *c = arg;
    if (c->owner == NULL || c->cut) {
        return -1;
    }
    size_t n = c->queue.len - c->sent < max ? c->queue.len - c->sent : max;
    if (n > 0) {
        memcpy(buf, c->queue.data + c->sent, n);
    }
    c->sent += n;
    if (c->sent == c->queue.len) {
        sp_buf_reset(&c->queue);
        c->sent = 0;
    }
    return (ssize_t)n;
}

static void on_free(void *arg)
{
    client_t *c = arg;
    if (c->owner != NULL) {
        *c->link = c->next;
        if (c->next != NULL) {
            c->next->link = c->link;
        }
        c->owner->stats.clients--;
    }
    sp_buf_free(&c->queue);
    free(c);
}

// Waking a client may end it and others: the list is not to be walked meanwhile. So all get the text first, then each is woken.
static void send_all(sp_events_t *self, const char *text)
{
    // NOLINTNEXTLINE(bugprone-sizeof-expression): a list of pointers it is
    sp_exchange_t **awake = calloc((size_t)self->stats.clients + 1, sizeof(*awake));
    size_t n = 0;
    for (client_t *c = self->clients; c != NULL; c = c->next) {
        if (c->sent > 0) { // what was sent makes room
            memmove(c->queue.data, c->queue.data + c->sent, c->queue.len - c->sent);
            c->queue.len -= c->sent;
            c->sent = 0;
        }
        sp_buf_addz(&c->queue, text);
        if (c->queue.failed && !c->cut) {
            c->cut = true;
            self->stats.dropped++;
            sp_log(SP_LOG_WARN, "EVENTS-SLOW-CLIENT", "req", c->x->request_id, NULL);
            sp_http_cut(c->x);
        }
        if (awake != NULL && c->x->suspended) {
            awake[n++] = c->x;
        }
    }
    // A suspended exchange ends only after it was woken, and each stands here once.
    for (size_t i = 0; i < n; i++) {
        sp_http_wake(awake[i]);
    }
    free(awake);
}

static void publish(sp_events_t *self, const char *kind, const sp_buf_t *json)
{
    sp_buf_t text = SP_BUF_INIT;
    self->sequence++;
    sp_buf_printf(&text, "id: %s-%" PRId64 "\nevent: %s\ndata: ", self->boot, self->sequence, kind);
    sp_buf_add(&text, json->data, json->len);
    sp_buf_addz(&text, "\n\n");
    if (!text.failed) {
        char **slot = &self->history[self->sequence % HISTORY];
        free(*slot);
        *slot = text.data;
        self->stats.published++;
        send_all(self, text.data);
    } else {
        sp_buf_free(&text);
    }
}

static void publish_gap(sp_events_t *self, const char *publisher)
{
    sp_buf_t json = SP_BUF_INIT;
    sp_buf_addz(&json, "{\"kind\":\"gap\",\"publisher\":");
    sp_json_write_string(&json, sp_str(publisher));
    sp_buf_addz(&json, ",\"message\":\"events were missed: read the state again\"}");
    if (!json.failed) {
        publish(self, "gap", &json);
    }
    sp_buf_free(&json);
}

// A kind stands in a line of the stream: nothing but letters, digits, dots and the like may.
static void clean_kind(sp_str_t kind, char *out, size_t size)
{
    size_t n = kind.len < size - 1 ? kind.len : size - 1;
    for (size_t i = 0; i < n; i++) {
        char c = kind.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     strchr("._-", c) != NULL;
        out[i] = plain && c != '\0' ? c : '_';
    }
    out[n] = '\0';
}

static void on_event(void *arg, const char *topic, const sp_schema_t *schema, const void *body,
                     bool gap)
{
    source_t *source = arg;
    sp_events_t *self = source->owner;
    // A publisher that is new here may have spoken before it was listened to, and somebody may have followed the others meanwhile.
    bool first = !source->heard && body != NULL && schema == &sp_schema_event &&
                 ((const sp_msg_event_t *)body)->sequence == 1;
    bool followed = source->heard || self->clients != NULL || self->sequence > 0;
    if (gap && !first && followed) {
        publish_gap(self, source->id);
    }
    source->heard = true;
    if (body == NULL || schema != &sp_schema_event || strcmp(topic, SP_PUBLISHER_HEARTBEAT) == 0) {
        return;
    }
    const sp_msg_event_t *event = body;
    sp_buf_t json = SP_BUF_INIT;
    sp_error_t err;
    char kind[65];
    clean_kind(event->kind, kind, sizeof(kind));
    if (sp_wire_encode_json(schema, body, false, &json, &err) == 0) {
        publish(self, kind, &json);
    }
    sp_buf_free(&json);
}

static int on_tick(zloop_t *loop, int timer_id, void *arg)
{
    (void)loop;
    (void)timer_id;
    send_all(arg, ": still here\n\n"); // also how a client that went away is noticed
    return 0;
}

int sp_events_open(sp_events_t **ret_self, zloop_t *loop, int max_clients, sp_error_t *err)
{
    sp_events_t *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "events");
    }
    self->loop = loop;
    self->max_clients = max_clients;
    sp_random_id(self->boot, BOOT_ID);
    self->tick = zloop_timer(loop, HEARTBEAT_MS, 0, on_tick, self);
    *ret_self = self;
    return 0;
}

static void drop_source(source_t **link)
{
    source_t *s = *link;
    *link = s->next;
    sp_subscriber_close(&s->sub);
    free(s);
}

void sp_events_close(sp_events_t **self_p)
{
    sp_events_t *self = *self_p;
    if (self == NULL) {
        return;
    }
    *self_p = NULL;
    zloop_timer_end(self->loop, self->tick);
    while (self->sources != NULL) {
        drop_source(&self->sources);
    }
    while (self->clients != NULL) {
        client_t *c = self->clients;
        *c->link = c->next;
        if (c->next != NULL) {
            c->next->link = c->link;
        }
        c->owner = NULL; // its next read ends the stream
        sp_http_wake(c->x);
    }
    for (size_t i = 0; i < HISTORY; i++) {
        free(self->history[i]);
    }
    free(self);
}

static void add_source(sp_events_t *self, const char *id, const char *endpoint)
{
    source_t *s = calloc(1, sizeof(*s));
    sp_error_t err;
    if (s == NULL) {
        return;
    }
    s->owner = self;
    snprintf(s->id, sizeof(s->id), "%s", id);
    snprintf(s->endpoint, sizeof(s->endpoint), "%s", endpoint);
    if (sp_subscriber_open(&s->sub, self->loop, endpoint, "", &sp_schema_event, on_event, s,
                           &err) != 0) {
        sp_log(SP_LOG_WARN, "EVENTS-REFUSED", "service", id, "endpoint", endpoint, "error",
               err.text, NULL);
        free(s);
        return;
    }
    s->listed = true;
    s->next = self->sources;
    self->sources = s;
}

void sp_events_sync(sp_events_t *self, const sp_msg_service_t *services, size_t n)
{
    for (source_t *s = self->sources; s != NULL; s = s->next) {
        s->listed = false;
    }
    for (size_t i = 0; i < n; i++) {
        bool publishes =
            sp_str_eqz(services[i].kind, "manager") || sp_str_eqz(services[i].kind, "health");
        if (!publishes || services[i].events_endpoint.len == 0 ||
            services[i].events_endpoint.len > 255) {
            continue;
        }
        source_t *s = self->sources;
        while (s != NULL && !(sp_str_eqz(services[i].id, s->id) &&
                              sp_str_eqz(services[i].events_endpoint, s->endpoint))) {
            s = s->next;
        }
        if (s != NULL) {
            s->listed = true;
        } else {
            char id[256], endpoint[256];
            snprintf(id, sizeof(id), SP_STR_FMT, SP_STR_ARG(services[i].id));
            snprintf(endpoint, sizeof(endpoint), SP_STR_FMT,
                     SP_STR_ARG(services[i].events_endpoint));
            add_source(self, id, endpoint);
        }
    }
    for (source_t **link = &self->sources; *link != NULL;) {
        if ((*link)->listed) {
            link = &(*link)->next;
        } else {
            drop_source(link);
        }
    }
}

// What came after `last` ("boot-n"), or a gap.
static void replay(sp_events_t *self, client_t *c, const char *last)
{
    int64_t from = -1;
    const char *dash = strrchr(last, '-');
    bool ours = dash != NULL && (size_t)(dash - last) == strlen(self->boot) &&
                strncmp(last, self->boot, BOOT_ID) == 0 &&
                sp_str_to_int64(sp_str(dash + 1), &from) == 0 && from >= 0 &&
                from <= self->sequence && self->sequence - from < HISTORY;
    for (int64_t i = from + 1; ours && i <= self->sequence; i++) {
        if (self->history[i % HISTORY] != NULL) {
            sp_buf_addz(&c->queue, self->history[i % HISTORY]);
        }
    }
    if (!ours || c->queue.failed) { // unknown here, or too much
        sp_buf_reset(&c->queue);
        sp_buf_addz(&c->queue, "event: gap\ndata: {\"kind\":\"gap\",\"message\":\"events were "
                               "missed: read the state again\"}\n\n");
    }
}

int sp_events_attach(sp_events_t *self, sp_exchange_t *x, sp_error_t *err)
{
    if (self->stats.clients >= self->max_clients) {
        return sp_error_set(err, SP_E_RATE_LIMITED, "%d clients listen to events already",
                            self->max_clients);
    }
    client_t *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "memory ran out");
    }
    c->owner = self;
    c->x = x;
    c->queue.limit = CLIENT_QUEUE_MAX;
    c->next = self->clients;
    c->link = &self->clients;
    if (c->next != NULL) {
        c->next->link = &c->next;
    }
    self->clients = c;
    self->stats.clients++;
    sp_buf_addz(&c->queue, "retry: 2000\n\n");
    const char *last = sp_http_header(x, "Last-Event-ID");
    if (last != NULL) {
        replay(self, c, last);
    }
    sp_http_reply_stream(x, "text/event-stream", on_read, on_free, c);
    return 0;
}

void sp_events_stats(const sp_events_t *self, sp_events_stats_t *ret_stats)
{
    *ret_stats = self->stats;
}
