#include "common/wire/value.h"

sp_value_t sp_value_str(const char *z)
{
    return (sp_value_t){.kind = z != NULL ? SP_VALUE_STRING : SP_VALUE_NULL, .u.s = sp_str(z)};
}

sp_value_t sp_value_int(int64_t i)
{
    return (sp_value_t){.kind = SP_VALUE_INT, .u.i = i};
}

const sp_value_t *sp_value_get(const sp_value_t *map, const char *key)
{
    if (map == NULL || map->kind != SP_VALUE_MAP) {
        return NULL;
    }
    for (size_t i = 0; i < map->u.map.n; i++) {
        if (sp_str_eqz(map->u.map.pairs[i].key, key)) {
            return &map->u.map.pairs[i].value;
        }
    }
    return NULL;
}
