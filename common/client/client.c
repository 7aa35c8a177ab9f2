// The client: its routers, and asking them.
#include "common/client/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/mesh/signals.h"

enum {
    DEFAULT_TIMEOUT_MS = 30000,
    MAX_TIMEOUT_MS = 600000,
    SUSPECT_MS = 3000,    // a router that did not answer is asked last for so long
    FIRST_TRY_MS = 2000,  // what one router gets of a deadline when others could answer too
    CONNECT_MS = 1000,    // for a router to show that it is there, before another one is tried
    PROVEN_MS = 1000,     // a router that answered so short a time ago is there
    MAX_IDLE = 64,        // connections kept for each router
    BACKOFF_MS = 20,      // first wait before asking again
    BACKOFF_CAP_MS = 500, // longest wait
};

const char *shardplane_version(void)
{
    return SHARDPLANE_VERSION;
}

const char *shardplane_code_name(int code)
{
    return code == 0 ? "ok" : sp_error_name(code);
}

int sp_client_error(const sp_error_t *err, shardplane_error_t *out)
{
    if (!out)
        return err->code;
    memset(out, 0, sizeof *out);
    out->code = err->code;
    out->retryable = err->retryable;
    if (err->code != 0)
        snprintf(out->name, sizeof out->name, "%s", sp_error_name(err->code));
    memcpy(out->sqlstate, err->sqlstate, sizeof out->sqlstate);
    snprintf(out->message, sizeof out->message, "%s", err->text);
    snprintf(out->detail, sizeof out->detail, "%s", err->detail);
    return err->code;
}

int64_t sp_client_deadline(const shardplane_t *self, int timeout_ms)
{
    if (timeout_ms <= 0)
        timeout_ms = self->timeout_ms;
    if (timeout_ms > MAX_TIMEOUT_MS)
        timeout_ms = MAX_TIMEOUT_MS;
    return sp_clock_mono_ms() + timeout_ms;
}

// ---- connections

// A router to ask: the next one that is not suspect, else the one whose suspicion ends first; never `but` when there is another.
static size_t choose(shardplane_t *self, size_t but)
{
    int64_t now = sp_clock_mono_ms();
    size_t best = self->turn % self->routers_n;
    int64_t best_ms = INT64_MAX;
    for (size_t i = 0; i < self->routers_n; i++) {
        size_t r = (self->turn + i) % self->routers_n;
        int64_t suspect_ms = self->routers[r].suspect_ms > now ? self->routers[r].suspect_ms : 0;
        if (r == but)
            suspect_ms = INT64_MAX - 1;
        if (suspect_ms < best_ms) {
            best = r;
            best_ms = suspect_ms;
        }
    }
    self->turn = best + 1;
    return best;
}

// *ret_proven: it gave an answer just now.
static sp_line_t *take_line(shardplane_t *self, size_t but, size_t *ret_router, bool *ret_proven,
                            sp_error_t *err)
{
    pthread_mutex_lock(&self->lock);
    size_t r = choose(self, but);
    idle_line_t *idle = self->routers[r].idle;
    if (idle) {
        self->routers[r].idle = idle->next;
        self->routers[r].idle_n--;
    }
    pthread_mutex_unlock(&self->lock);
    *ret_router = r;
    sp_line_t *line = idle ? idle->line : NULL;
    *ret_proven = idle && sp_clock_mono_ms() - idle->used_ms < PROVEN_MS;
    free(idle);
    if (!line && sp_line_open(&line, self->routers[r].endpoint, err) != 0)
        return NULL;
    return line;
}

// Keeps a line for the next caller; one that lost an answer is closed, because its queue may hold the request still, and so is one that
// found no router.
static void give_line(shardplane_t *self, size_t r, sp_line_t *line, bool mute)
{
    idle_line_t *idle = mute ? NULL : malloc(sizeof *idle);
    pthread_mutex_lock(&self->lock);
    router_t *router = &self->routers[r];
    router->suspect_ms = mute ? sp_clock_mono_ms() + SUSPECT_MS : 0;
    if (idle && router->idle_n < MAX_IDLE) {
        *idle = (idle_line_t){.line = line, .used_ms = sp_clock_mono_ms(), .next = router->idle};
        router->idle = idle;
        router->idle_n++;
        idle = NULL;
        line = NULL;
    }
    pthread_mutex_unlock(&self->lock);
    free(idle);
    sp_line_close(&line);
}

// What to tell at the end, when the answer to an earlier try was lost: not what became of the later ones.
static int settle(const sp_error_t *unsure, sp_error_t *err)
{
    if (unsure->code == 0)
        return err->code;
    sp_error_t later = *err;
    sp_error_set(err, unsure->code, "%s; asked again: %s", unsure->text, later.text);
    memcpy(err->sqlstate, later.sqlstate, sizeof err->sqlstate);
    memcpy(err->detail, later.detail, sizeof err->detail);
    return err->code;
}

// Whether a router is at the other end. What is sent to one that is not waits for it or its successor, and is in doubt.
static int find(sp_line_t *line, const char *endpoint, int timeout_ms, sp_arena_t *arena,
                sp_error_t *err)
{
    static const sp_msg_ping_t ping = {0};
    const sp_schema_t *schema = NULL;
    void *body = NULL;
    bool lost = false;
    int rc = sp_line_call(line, &sp_schema_ping, &ping, NULL,
                          timeout_ms < CONNECT_MS ? timeout_ms : CONNECT_MS, arena, &schema, &body,
                          &lost, NULL);
    return rc == 0 ? 0
                   : sp_error_set(err, SP_E_UNAVAILABLE,
                                  "no router answers at %s; nothing was sent", endpoint);
}

int sp_client_ask(shardplane_t *self, const sp_schema_t *schema, const void *body, sp_ask_t kind,
                  int64_t deadline_ms, sp_arena_t *arena, void **ret_body, sp_error_t *err)
{
    size_t router = SIZE_MAX;
    bool mute = false; // the last router asked
    const sp_schema_t *answer = NULL;
    sp_error_t last = {0}, unsure = {0};
    for (int attempt = 0;; attempt++) {
        int left_ms = sp_clock_until_ms(deadline_ms);
        if (left_ms == 0) {
            // What the last router said is more telling than that time is up.
            if (last.code != 0)
                *err = last;
            else
                sp_error_set(err, SP_E_DEADLINE_EXCEEDED, "%s: the deadline passed", schema->name);
            return settle(&unsure, err);
        }
        sp_error_clear(err);
        sp_arena_reset(arena);
        bool lost = false, proven = false;
        sp_line_t *line = take_line(self, mute ? router : SIZE_MAX, &router, &proven, err);
        if (!line)
            return settle(&unsure, err);
        int share_ms = left_ms;
        if (kind != SP_ASK_ONCE && share_ms > FIRST_TRY_MS)
            share_ms = FIRST_TRY_MS > left_ms / 2 ? FIRST_TRY_MS : left_ms / 2;
        int64_t share_end_ms = sp_clock_mono_ms() + share_ms;
        int rc = proven ? 0 : find(line, self->routers[router].endpoint, share_ms, arena, err);
        mute = rc != 0;
        if (!mute)
            rc = sp_line_call(line, schema, body, NULL, sp_clock_until_ms(share_end_ms), arena,
                              &answer, ret_body, &lost, err);
        mute = mute || lost;
        give_line(self, router, line, mute);
        if (rc == 0 && answer == schema->reply)
            return 0;
        if (rc == 0)
            return sp_error_set(err, SP_E_MALFORMED, "%s got an answer of another kind",
                                schema->name);
        if (lost && kind == SP_ASK_KEYED)
            unsure = *err;
        // A router that says so has changed nothing; one that says nothing may have.
        bool again = lost ? kind != SP_ASK_ONCE : err->retryable;
        if (!again)
            return lost ? rc : settle(&unsure, err);
        last = *err;
        int64_t wait_ms = sp_random_backoff_ms(attempt, BACKOFF_MS, BACKOFF_CAP_MS);
        left_ms = sp_clock_until_ms(deadline_ms);
        sp_clock_sleep_ms(wait_ms < left_ms ? wait_ms : left_ms);
    }
}

// ---- life

static bool copy_strings(char **out, const char *const *in, size_t n)
{
    bool ok = out != NULL || n == 0;
    for (size_t i = 0; ok && i < n; i++) {
        out[i] = in[i] ? strdup(in[i]) : NULL;
        ok = out[i] != NULL;
    }
    return ok;
}

int shardplane_open(shardplane_t **ret_self, const shardplane_options_t *options,
                    shardplane_error_t *err)
{
    sp_error_t why = {0};
    if (!ret_self || !options || options->size < sizeof *options || options->routers_n == 0 ||
        !options->routers || (options->feeds_n > 0 && !options->feeds) ||
        options->routers_n > 1000 || options->feeds_n > 1000) {
        sp_error_set(&why, SP_E_INVALID_ARGUMENT,
                     "options need their size (SHARDPLANE_OPTIONS_INIT) and at least one router");
        return sp_client_error(&why, err);
    }
    sp_mesh_setup();
    shardplane_t *self = calloc(1, sizeof *self);
    char **endpoints = calloc(options->routers_n, sizeof *endpoints);
    bool ok = self && endpoints;
    if (ok) {
        pthread_mutex_init(&self->lock, NULL);
        self->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
        self->routers = calloc(options->routers_n, sizeof *self->routers);
        self->feeds = calloc(options->feeds_n + 1, sizeof *self->feeds);
        self->feeds_n = options->feeds_n;
        ok = self->routers && self->feeds &&
             copy_strings(self->feeds, options->feeds, options->feeds_n);
        ok = copy_strings(endpoints, options->routers, options->routers_n) && ok;
        self->routers_n = self->routers ? options->routers_n : 0;
        for (size_t i = 0; i < self->routers_n; i++)
            self->routers[i].endpoint = endpoints[i];
        // Where many clients start together, they do not all begin with the same router.
        self->turn = sp_random_below((uint32_t)options->routers_n);
    }
    free(endpoints);
    for (size_t i = 0; ok && i < self->routers_n + self->feeds_n; i++) {
        const char *e =
            i < self->routers_n ? self->routers[i].endpoint : self->feeds[i - self->routers_n];
        if (strstr(e, "://") == NULL || strlen(e) > 200)
            sp_error_set(&why, SP_E_INVALID_ARGUMENT, "%.200s is not of the form tcp://host:port",
                         e);
    }
    if (!ok)
        sp_error_set(&why, SP_E_OUT_OF_MEMORY, "client");
    if (why.code != 0) {
        shardplane_close(&self);
        return sp_client_error(&why, err);
    }
    *ret_self = self;
    return sp_client_error(&why, err);
}

void shardplane_close(shardplane_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    shardplane_t *self = *self_p;
    sp_rings_close(&self->rings);
    for (size_t i = 0; i < self->routers_n; i++) {
        for (idle_line_t *idle = self->routers[i].idle, *next; idle; idle = next) {
            next = idle->next;
            sp_line_close(&idle->line);
            free(idle);
        }
        free(self->routers[i].endpoint);
    }
    for (size_t i = 0; self->feeds && i < self->feeds_n; i++)
        free(self->feeds[i]);
    free(self->routers);
    free(self->feeds);
    pthread_mutex_destroy(&self->lock);
    free(self);
    *self_p = NULL;
}
