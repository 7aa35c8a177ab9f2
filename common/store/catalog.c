// Catalog: a store listing decoded into typed, immutable objects.
#include "common/store/catalog.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"

#define CATALOG_LIMIT ((size_t)512 * 1024 * 1024)

static const struct {
    const char *prefix; // of the keys
} families[] = {{"keyspaces/"}, {"ring/"}, {"shards/"}, {"jobs/"}, {"services/"}};

// ---- reading one record

static sp_str_t behind(sp_str_t key, const char *prefix)
{
    size_t n = strlen(prefix);
    return (sp_str_t){key.ptr + n, key.len - n};
}

static int decode(sp_catalog_t *self, const sp_kv_t *kv, const sp_schema_t *schema,
                  void *ret_record, sp_error_t *err)
{
    sp_error_t why = {0};
    int rc =
        sp_wire_decode_json(schema, kv->value.ptr, kv->value.len, self->arena, ret_record, &why);
    if (rc != 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "catalog key %.*s: %s",
                            SP_STR_ARG(kv->key), why.text);
    return 0;
}

// A record that stands under another's key would be found twice, or not at all.
static int check_name(const sp_kv_t *kv, const char *prefix, sp_str_t name, sp_error_t *err)
{
    if (!sp_str_eq(behind(kv->key, prefix), name))
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "catalog key %.*s holds %.*s",
                            SP_STR_ARG(kv->key), SP_STR_ARG(name));
    return 0;
}

static sp_catalog_rev_t rev_of(const sp_kv_t *kv)
{
    return (sp_catalog_rev_t){.mod_revision = kv->mod_revision,
                              .create_revision = kv->create_revision};
}

static int add_keyspace(sp_catalog_t *self, const sp_kv_t *kv, sp_error_t *err)
{
    sp_msg_catalog_keyspace_t *record = sp_arena_alloc(self->arena, 1, sizeof *record);
    if (!record)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog does not fit");
    int rc = decode(self, kv, &sp_schema_catalog_keyspace, record, err);
    if (rc == 0)
        rc = check_name(kv, "keyspaces/", record->name, err);
    if (rc == 0)
        self->keyspaces[self->n_keyspaces++] =
            (sp_catalog_keyspace_view_t){.keyspace = record, .rev = rev_of(kv)};
    return rc;
}

static int add_ring(sp_catalog_t *self, const sp_kv_t *kv, sp_error_t *err)
{
    sp_msg_catalog_ring_t *record = sp_arena_alloc(self->arena, 1, sizeof *record);
    if (!record)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog does not fit");
    int rc = decode(self, kv, &sp_schema_catalog_ring, record, err);
    if (rc == 0)
        rc = check_name(kv, "ring/", record->keyspace, err);
    if (rc != 0)
        return rc;
    // Keys come in order, so all keyspaces are there.
    sp_catalog_keyspace_view_t *view =
        (sp_catalog_keyspace_view_t *)sp_catalog_keyspace(self, record->keyspace);
    if (!view)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "catalog key %.*s: there is no such keyspace", SP_STR_ARG(kv->key));
    view->ring_record = record;
    view->ring_rev = rev_of(kv);
    return 0;
}

static int add_shard(sp_catalog_t *self, const sp_kv_t *kv, sp_error_t *err)
{
    sp_msg_catalog_shard_t *record = sp_arena_alloc(self->arena, 1, sizeof *record);
    if (!record)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog does not fit");
    int rc = decode(self, kv, &sp_schema_catalog_shard, record, err);
    if (rc == 0)
        rc = check_name(kv, "shards/", record->id, err);
    if (rc != 0)
        return rc;
    if (!sp_catalog_keyspace(self, record->keyspace))
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                            "catalog key %.*s: there is no keyspace %.*s", SP_STR_ARG(kv->key),
                            SP_STR_ARG(record->keyspace));
    self->shards[self->n_shards++] = (sp_catalog_shard_view_t){.shard = record, .rev = rev_of(kv)};
    return 0;
}

static int add_job(sp_catalog_t *self, const sp_kv_t *kv, sp_error_t *err)
{
    sp_msg_catalog_job_t *record = sp_arena_alloc(self->arena, 1, sizeof *record);
    if (!record)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog does not fit");
    int rc = decode(self, kv, &sp_schema_catalog_job, record, err);
    if (rc == 0)
        rc = check_name(kv, "jobs/", record->id, err);
    if (rc == 0)
        self->jobs[self->n_jobs++] = (sp_catalog_job_view_t){.job = record, .rev = rev_of(kv)};
    return rc;
}

// Services say where somebody is, nothing about who owns what: a bad one is left out.
static void add_service(sp_catalog_t *self, const sp_kv_t *kv)
{
    sp_error_t err = {0};
    if (decode(self, kv, &sp_schema_service, &self->services[self->n_services], &err) == 0)
        self->n_services++;
    else
        sp_log(SP_LOG_WARN, "CATALOG-BAD-SERVICE", "reason", err.text, NULL);
}

static int add_record(sp_catalog_t *self, const sp_kv_t *kv, sp_error_t *err)
{
    if (sp_str_eqz(kv->key, "generation"))
        return decode(self, kv, &sp_schema_catalog_generation, &self->generation, err);
    if (sp_str_eqz(kv->key, "leader")) {
        self->leader_rev = rev_of(kv);
        return decode(self, kv, &sp_schema_catalog_leader, &self->leader, err);
    }
    if (sp_str_starts(kv->key, "keyspaces/"))
        return add_keyspace(self, kv, err);
    if (sp_str_starts(kv->key, "shards/"))
        return add_shard(self, kv, err);
    if (sp_str_starts(kv->key, "ring/"))
        return add_ring(self, kv, err);
    if (sp_str_starts(kv->key, "jobs/"))
        return add_job(self, kv, err);
    if (sp_str_starts(kv->key, "services/"))
        add_service(self, kv);
    return 0; // users/, audit/ and what a later release adds
}

// ---- the whole

static int build_ring(sp_catalog_t *self, sp_catalog_keyspace_view_t *view, sp_error_t *err)
{
    sp_ring_shard_t *members = sp_arena_alloc(self->arena, self->n_shards, sizeof *members);
    if (!members)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "the catalog does not fit");
    size_t n = 0;
    bool any = false;
    sp_error_t why = {0};
    for (size_t i = 0; i < self->n_shards; i++) {
        const sp_msg_catalog_shard_t *s = self->shards[i].shard;
        if (!sp_str_eq(s->keyspace, view->keyspace->name))
            continue;
        sp_ring_shard_t *m = &members[n++];
        m->id = s->id;
        if (sp_tokens_decode(s->tokens, self->arena, &m->tokens, &why) != 0)
            return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE,
                                "catalog key shards/%.*s: tokens: %s", SP_STR_ARG(s->id), why.text);
        any = any || m->tokens.n > 0;
    }
    if (!any)
        return 0;
    sp_ring_t *ring = NULL;
    if (sp_ring_build(&ring, members, n, &why) != 0)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "ring of keyspace %.*s: %s",
                            SP_STR_ARG(view->keyspace->name), why.text);
    view->ring = ring;
    // Somebody owns something, so there is a version to compare.
    if (!view->ring_record)
        return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "catalog key ring/%.*s is missing",
                            SP_STR_ARG(view->keyspace->name));
    return 0;
}

static sp_catalog_t *catalog_new(const sp_kv_list_t *list)
{
    sp_catalog_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->references = 1;
    self->revision = list->revision;
    self->arena = sp_arena_new(CATALOG_LIMIT);
    size_t counts[5] = {0};
    for (size_t i = 0; i < list->n; i++)
        for (size_t f = 0; f < 5; f++)
            counts[f] += sp_str_starts(list->items[i].key, families[f].prefix);
    if (self->arena) {
        self->keyspaces = sp_arena_alloc(self->arena, counts[0], sizeof *self->keyspaces);
        self->shards = sp_arena_alloc(self->arena, counts[2], sizeof *self->shards);
        self->jobs = sp_arena_alloc(self->arena, counts[3], sizeof *self->jobs);
        self->services = sp_arena_alloc(self->arena, counts[4], sizeof *self->services);
    }
    if (!self->arena || !self->keyspaces || !self->shards || !self->jobs || !self->services)
        sp_catalog_unref(&self);
    return self;
}

int sp_catalog_parse(const sp_kv_list_t *list, sp_catalog_t **ret_catalog, sp_error_t *err)
{
    sp_catalog_t *self = catalog_new(list);
    if (!self)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "catalog");
    int rc = 0;
    for (size_t i = 0; i < list->n && rc == 0; i++)
        rc = add_record(self, &list->items[i], err);
    for (size_t i = 0; i < self->n_keyspaces && rc == 0; i++)
        rc = build_ring(self, &self->keyspaces[i], err);
    if (rc != 0) {
        sp_catalog_unref(&self);
        return rc;
    }
    *ret_catalog = self;
    return 0;
}

int sp_catalog_load(sp_store_t *store, sp_catalog_t **ret_catalog, sp_error_t *err)
{
    sp_arena_t *arena = sp_arena_new(CATALOG_LIMIT);
    sp_kv_list_t list;
    if (!arena)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "catalog");
    int rc = sp_store_list(store, SP_STR(""), arena, &list, err);
    if (rc == 0)
        rc = sp_catalog_parse(&list, ret_catalog, err);
    sp_arena_destroy(&arena);
    return rc;
}

sp_catalog_t *sp_catalog_ref(sp_catalog_t *self)
{
    if (self)
        __atomic_add_fetch(&self->references, 1, __ATOMIC_RELAXED);
    return self;
}

void sp_catalog_unref(sp_catalog_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_catalog_t *self = *self_p;
    *self_p = NULL;
    if (__atomic_sub_fetch(&self->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (size_t i = 0; i < self->n_keyspaces; i++) {
        sp_ring_t *ring = (sp_ring_t *)self->keyspaces[i].ring;
        sp_ring_destroy(&ring);
    }
    sp_arena_destroy(&self->arena);
    free(self);
}

// ---- lookups: the records are ascending by name

typedef sp_str_t(name_fn)(const void *view);

static const void *find(const void *views, size_t n, size_t size, name_fn *name_of, sp_str_t name)
{
    for (size_t low = 0, high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        const void *view = (const char *)views + middle * size;
        int order = sp_str_cmp(name_of(view), name);
        if (order == 0)
            return view;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static sp_str_t keyspace_name(const void *view)
{
    return ((const sp_catalog_keyspace_view_t *)view)->keyspace->name;
}

static sp_str_t shard_name(const void *view)
{
    return ((const sp_catalog_shard_view_t *)view)->shard->id;
}

static sp_str_t job_name(const void *view)
{
    return ((const sp_catalog_job_view_t *)view)->job->id;
}

const sp_catalog_keyspace_view_t *sp_catalog_keyspace(const sp_catalog_t *self, sp_str_t name)
{
    return find(self->keyspaces, self->n_keyspaces, sizeof *self->keyspaces, keyspace_name, name);
}

const sp_catalog_shard_view_t *sp_catalog_shard(const sp_catalog_t *self, sp_str_t id)
{
    return find(self->shards, self->n_shards, sizeof *self->shards, shard_name, id);
}

const sp_catalog_job_view_t *sp_catalog_job(const sp_catalog_t *self, sp_str_t id)
{
    return find(self->jobs, self->n_jobs, sizeof *self->jobs, job_name, id);
}

bool sp_catalog_step_done(const sp_msg_catalog_job_t *job, const char *step)
{
    for (size_t i = 0; i < job->steps_done.n; i++)
        if (sp_str_eqz(job->steps_done.items[i], step))
            return true;
    return false;
}

const sp_msg_service_t *sp_catalog_service(const sp_catalog_t *self, const char *kind, size_t n)
{
    for (size_t i = 0; i < self->n_services; i++)
        if (sp_str_eqz(self->services[i].kind, kind) && n-- == 0)
            return &self->services[i];
    return NULL;
}
