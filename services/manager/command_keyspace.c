// Commands about keyspaces.
#include "schemas/shard.h"
#include "services/manager/command.h"
#include "services/manager/views.h"

static int make_keyspace(command_t *c, sp_str_t name, int64_t key_type, int64_t stride,
                         sp_error_t *err)
{
    if (!sp_str_valid_name(name))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "name: lower-case letters, digits, - and _, first a letter or digit");
    if (sp_catalog_keyspace(c->env->catalog, name))
        return sp_error_set(err, SP_E_ALREADY_EXISTS, "keyspace " SP_STR_FMT " exists",
                            SP_STR_ARG(name));
    sp_msg_catalog_keyspace_t k = {.name = name,
                                   .key_type = key_type,
                                   .has_key_type = key_type != 0,
                                   .sequence_stride = stride,
                                   .has_sequence_stride = true,
                                   .next_ordinal = 0,
                                   .has_next_ordinal = true};
    // A keyspace of this name may have been before, and routers and clients never go back: each version that its ring had took a
    // revision of the catalog, so none was higher than this.
    sp_msg_catalog_ring_t ring = {.keyspace = name,
                                  .version = c->env->catalog->revision,
                                  .has_version = true,
                                  .generation = c->env->epoch.generation,
                                  .has_generation = true,
                                  .epoch = c->env->epoch.epoch,
                                  .has_epoch = true};
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!txn)
        return command_no_memory(err);
    const char *key = key_keyspace(c->arena, name), *ring_key = key_ring(c->arena, name);
    sp_catalog_txn_expect(txn, key, 0);
    sp_catalog_txn_expect(txn, ring_key, 0);
    sp_catalog_txn_put(txn, key, &sp_schema_catalog_keyspace, &k, 0);
    sp_catalog_txn_put(txn, ring_key, &sp_schema_catalog_ring, &ring, 0);
    return command_commit(c, &txn, err);
}

int command_need_keyspace(command_t *c, sp_str_t name, sp_error_t *err)
{
    if (sp_catalog_keyspace(c->env->catalog, name))
        return 0;
    if (!sp_str_eqz(name, "default"))
        return sp_error_set(err, SP_E_NOT_FOUND, "keyspace " SP_STR_FMT " does not exist",
                            SP_STR_ARG(name));
    return make_keyspace(c, name, 0, 64, err);
}

int command_keyspace_create(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_keyspace_create_t *m = body;
    int rc = make_keyspace(c, m->name, m->key_type, m->sequence_stride, err);
    if (rc != 0)
        return rc;
    sp_msg_keyspace_t *reply = sp_arena_alloc(c->arena, 1, sizeof *reply);
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(c->env->catalog, m->name);
    if (!reply || !view || !view_keyspace(c->env->catalog, view, c->arena, reply))
        return command_no_memory(err);
    c->reply = reply;
    c->reply_schema = &sp_schema_keyspace;
    return 0;
}

int command_keyspace_delete(command_t *c, const void *body, sp_error_t *err)
{
    const sp_msg_keyspace_delete_t *m = body;
    const sp_catalog_keyspace_view_t *view = sp_catalog_keyspace(c->env->catalog, m->keyspace);
    if (!view)
        return sp_error_set(err, SP_E_NOT_FOUND, "keyspace " SP_STR_FMT " does not exist",
                            SP_STR_ARG(m->keyspace));
    for (size_t i = 0; i < c->env->catalog->n_shards; i++)
        if (sp_str_eq(c->env->catalog->shards[i].shard->keyspace, m->keyspace))
            return sp_error_set(err, SP_E_CONFLICT,
                                "keyspace " SP_STR_FMT " still has shard " SP_STR_FMT,
                                SP_STR_ARG(m->keyspace),
                                SP_STR_ARG(c->env->catalog->shards[i].shard->id));
    sp_catalog_txn_t *txn = env_txn(c->env);
    if (!txn)
        return command_no_memory(err);
    const char *key = key_keyspace(c->arena, m->keyspace),
               *ring_key = key_ring(c->arena, m->keyspace);
    sp_catalog_txn_expect(txn, key, view->rev.mod_revision);
    sp_catalog_txn_delete(txn, key);
    if (view->ring_record) {
        sp_catalog_txn_expect(txn, ring_key, view->ring_rev.mod_revision);
        sp_catalog_txn_delete(txn, ring_key);
    }
    int rc = command_commit(c, &txn, err);
    return rc == 0 ? command_reply_ack(c) : rc;
}
