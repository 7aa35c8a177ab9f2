// Typed reads and writes of the gateway's JSON: nothing is assumed about what it says.
#include "common/store/etcd_http.h"
#include "common/wire/base64.h"

static int wrong_type(const char *key, const char *wanted, sp_error_t *err)
{
    return sp_error_set(err, SP_E_CATALOG_UNAVAILABLE, "etcd's answer: %s is not %s", key, wanted);
}

int sp_etcd_int64(const sp_value_t *map, const char *key, int64_t *ret_value, sp_error_t *err)
{
    const sp_value_t *v = map->kind == SP_VALUE_MAP ? sp_value_get(map, key) : NULL;
    *ret_value = 0;
    if (!v)
        return 0;
    if (v->kind == SP_VALUE_INT) {
        *ret_value = v->u.i;
        return 0;
    }
    if (v->kind == SP_VALUE_STRING && sp_str_to_int64(v->u.s, ret_value) == 0)
        return 0;
    return wrong_type(key, "an int64", err);
}

int sp_etcd_bool(const sp_value_t *map, const char *key, bool *ret_value, sp_error_t *err)
{
    const sp_value_t *v = map->kind == SP_VALUE_MAP ? sp_value_get(map, key) : NULL;
    *ret_value = false;
    if (!v)
        return 0;
    if (v->kind != SP_VALUE_BOOL)
        return wrong_type(key, "a bool", err);
    *ret_value = v->u.b;
    return 0;
}

int sp_etcd_bytes(const sp_value_t *map, const char *key, sp_arena_t *arena, sp_str_t *ret_value,
                  sp_error_t *err)
{
    const sp_value_t *v = map->kind == SP_VALUE_MAP ? sp_value_get(map, key) : NULL;
    *ret_value = SP_STR("");
    if (!v)
        return 0;
    if (v->kind != SP_VALUE_STRING || sp_base64_decode(v->u.s, arena, ret_value, NULL) != 0)
        return wrong_type(key, "base64 that fits", err);
    return 0;
}

void sp_etcd_add_bytes(sp_buf_t *out, const char *key, sp_str_t value)
{
    sp_buf_printf(out, "\"%s\":\"", key);
    sp_base64_encode(value.ptr, value.len, out);
    sp_buf_addc(out, '"');
}
