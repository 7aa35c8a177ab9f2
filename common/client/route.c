// Where a key lives, and transactions straight to its owner.
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/client/client.h"
#include "common/wire/wire.h"
#include "schemas/route.h"

enum { RETRY_MS = 5, RETRY_CAP_MS = 200 };

static void copy_text(char *out, size_t size, sp_str_t s)
{
    snprintf(out, size, SP_STR_FMT, SP_STR_ARG(s));
}

// 0 when the arguments can be used; keyspace NULL becomes the default.
static int check(const shardplane_t *self, const char **keyspace_p, const char *key,
                 sp_error_t *err)
{
    if (!*keyspace_p)
        *keyspace_p = "default";
    if (!self || !key || strlen(*keyspace_p) > 63 || !**keyspace_p)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a client, a keyspace of 1 to 63 bytes and a key are needed");
    return 0;
}

int shardplane_shard_for_key(shardplane_t *self, const char *keyspace, const char *key,
                             shardplane_owner_t *ret_owner, shardplane_error_t *err)
{
    sp_error_t why = {0};
    sp_arena_t *arena = sp_arena_new(0);
    void *body = NULL;
    if (check(self, &keyspace, key, &why) == 0 && arena) {
        sp_msg_shard_for_key_t ask = {.keyspace = sp_str(keyspace), .key = sp_str(key)};
        sp_client_ask(self, &sp_schema_shard_for_key, &ask, SP_ASK_READ,
                      sp_client_deadline(self, 0), arena, &body, &why);
    } else if (!arena) {
        sp_error_set(&why, SP_E_OUT_OF_MEMORY, "shard_for_key");
    }
    if (why.code == 0 && body) {
        const sp_msg_shard_for_key_reply_t *reply = body;
        memset(ret_owner, 0, sizeof *ret_owner);
        copy_text(ret_owner->shard_id, sizeof ret_owner->shard_id, reply->shard_id);
        copy_text(ret_owner->host, sizeof ret_owner->host, reply->host);
        copy_text(ret_owner->database, sizeof ret_owner->database, reply->database);
        ret_owner->port = (int)reply->port;
        ret_owner->hash = reply->hash;
        ret_owner->ring_version = reply->ring_version;
    }
    sp_arena_destroy(&arena);
    return sp_client_error(&why, err);
}

// The local rings, started by the first caller.
static sp_rings_t *rings_of(shardplane_t *self, sp_error_t *err)
{
    pthread_mutex_lock(&self->lock);
    if (!self->rings)
        sp_rings_open(&self->rings, self, err);
    sp_rings_t *rings = self->rings;
    pthread_mutex_unlock(&self->lock);
    return rings;
}

static int route(shardplane_t *self, const char *keyspace, const char *key, int64_t deadline_ms,
                 shardplane_owner_t *ret_owner, sp_error_t *err)
{
    sp_rings_t *rings = rings_of(self, err);
    return rings ? sp_rings_route(rings, keyspace, key, deadline_ms, ret_owner, err) : err->code;
}

int shardplane_route(shardplane_t *self, const char *keyspace, const char *key,
                     shardplane_owner_t *ret_owner, shardplane_error_t *err)
{
    sp_error_t why = {0};
    if (check(self, &keyspace, key, &why) == 0)
        route(self, keyspace, key, sp_client_deadline(self, 0), ret_owner, &why);
    return sp_client_error(&why, err);
}

int shardplane_wait_newer(shardplane_t *self, const char *keyspace, int64_t ring_version,
                          int timeout_ms, shardplane_error_t *err)
{
    sp_error_t why = {0};
    sp_rings_t *rings = check(self, &keyspace, "", &why) == 0 ? rings_of(self, &why) : NULL;
    if (rings &&
        !sp_rings_wait(rings, keyspace, ring_version, sp_client_deadline(self, timeout_ms)))
        sp_error_set(&why, SP_E_DEADLINE_EXCEEDED, "no ring newer than %lld came",
                     (long long)ring_version);
    return sp_client_error(&why, err);
}

int shardplane_refusal(const char *sqlstate, const char *detail)
{
    if (!sqlstate || strcmp(sqlstate, "SHP01") != 0)
        return 0;
    // Without a reason that can be read, waiting is right in either case.
    int code = SHARDPLANE_E_IN_TRANSITION;
    sp_arena_t *arena = sp_arena_new(0);
    sp_value_t value;
    if (arena && detail &&
        sp_wire_value_from_json(detail, strlen(detail), arena, &value, NULL) == 0 &&
        value.kind == SP_VALUE_MAP) {
        const sp_value_t *reason = sp_value_get(&value, "reason");
        if (reason && reason->kind == SP_VALUE_STRING && sp_str_eqz(reason->u.s, "not_owner"))
            code = SHARDPLANE_E_NOT_OWNER;
    }
    sp_arena_destroy(&arena);
    return code;
}

int shardplane_transaction(shardplane_t *self, const char *keyspace, const char *key,
                           int timeout_ms, shardplane_transaction_fn *fn, void *arg,
                           shardplane_error_t *err)
{
    sp_error_t why = {0};
    shardplane_error_t local;
    if (!err)
        err = &local;
    if (check(self, &keyspace, key, &why) != 0)
        return sp_client_error(&why, err);
    int64_t deadline_ms = sp_client_deadline(self, timeout_ms);
    for (int attempt = 0;; attempt++) {
        shardplane_owner_t owner;
        sp_error_clear(&why);
        if (route(self, keyspace, key, deadline_ms, &owner, &why) != 0)
            return sp_client_error(&why, err);
        memset(err, 0, sizeof *err);
        int rc = fn(arg, &owner, err);
        if (rc != SHARDPLANE_E_IN_TRANSITION && rc != SHARDPLANE_E_NOT_OWNER)
            return rc;
        if (err->code == 0) {
            sp_error_set(&why, rc, "shard %s refused the key's rows", owner.shard_id);
            sp_client_error(&why, err);
        }
        // A newer ring, or a while: the shard may also open without one (a cutover that was given up).
        int64_t until_ms =
            sp_clock_mono_ms() + sp_random_backoff_ms(attempt, RETRY_MS, RETRY_CAP_MS);
        sp_rings_wait(self->rings, keyspace, owner.ring_version,
                      until_ms < deadline_ms ? until_ms : deadline_ms);
        if (sp_clock_until_ms(deadline_ms) == 0)
            return rc;
    }
}
