#include "common/owner/fingerprint.h"

#include "common/owner/sql/fingerprint.h"

int sp_owner_fingerprint(sp_pg_t *pg, sp_str_t schema, sp_str_t table, sp_arena_t *arena,
                         const char **ret_fingerprint, sp_error_t *err)
{
    const char *schema_z = sp_arena_cstr(arena, schema);
    const char *table_z = sp_arena_cstr(arena, table);
    if (!schema_z || !table_z)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "fingerprint of a table");
    const char *params[] = {schema_z, table_z};
    PGresult *result = NULL;
    int rc = sp_pg_query(pg, SP_SQL_FINGERPRINT, 2, params, &result, err);
    if (rc)
        return sp_error_prefix(err, "fingerprint of %s.%s", schema_z, table_z);
    if (PQntuples(result) != 1 || PQgetisnull(result, 0, 0)) {
        rc = sp_error_set(err, SP_E_NOT_FOUND, "table %s.%s does not exist", schema_z, table_z);
    } else {
        const char *copy = sp_arena_strz(arena, PQgetvalue(result, 0, 0));
        if (copy)
            *ret_fingerprint = copy;
        else
            rc = sp_error_set(err, SP_E_OUT_OF_MEMORY, "fingerprint of a table");
    }
    PQclear(result);
    return rc;
}
