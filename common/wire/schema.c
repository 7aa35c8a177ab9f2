// Look-ups in the generated tables.
#include <string.h>

#include "common/wire/wire.h"

const sp_schema_t *sp_schema_by_id(uint16_t id)
{
    size_t low = 0, high = sp_schemas_n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sp_schemas[middle]->id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < sp_schemas_n && sp_schemas[low]->id == id ? sp_schemas[low] : NULL;
}

const sp_schema_t *sp_schema_by_name(const char *name)
{
    for (size_t i = 0; i < sp_schemas_n; i++) {
        if (strcmp(sp_schemas[i]->name, name) == 0) {
            return sp_schemas[i];
        }
    }
    return NULL;
}

const char *sp_enum_name(const sp_enum_t *e, int64_t value)
{
    for (size_t i = 0; i < e->n; i++) {
        if (e->rows[i].value == value) {
            return e->rows[i].name;
        }
    }
    return "unknown";
}

int sp_enum_value(const sp_enum_t *e, sp_str_t name, int64_t *ret_value)
{
    for (size_t i = 0; i < e->n; i++) {
        if (sp_str_eqz(name, e->rows[i].name)) {
            *ret_value = e->rows[i].value;
            return 0;
        }
    }
    return SP_E_INVALID_ARGUMENT;
}
