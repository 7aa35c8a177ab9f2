// A value whose type is known only at run time: statement parameters, result rows, error details.
#ifndef SP_WIRE_VALUE_H
#define SP_WIRE_VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

typedef enum {
    SP_VALUE_ABSENT = 0,
    SP_VALUE_NULL,
    SP_VALUE_BOOL,
    SP_VALUE_INT,
    SP_VALUE_FLOAT,
    SP_VALUE_STRING,
    SP_VALUE_BYTES,
    SP_VALUE_LIST,
    SP_VALUE_MAP,
} sp_value_kind_t;

typedef struct sp_value sp_value_t;
typedef struct sp_value_pair sp_value_pair_t;
struct sp_value {
    sp_value_kind_t kind; // which member counts
    union {
        bool b;     // SP_VALUE_BOOL
        int64_t i;  // SP_VALUE_INT
        double f;   // SP_VALUE_FLOAT
        sp_str_t s; // SP_VALUE_STRING (UTF-8), SP_VALUE_BYTES
        struct {
            sp_value_t *items; // SP_VALUE_LIST
            size_t n;          // count
        } list;
        struct {
            sp_value_pair_t *pairs; // SP_VALUE_MAP, in the sender's order, keys unique
            size_t n;               // count
        } map;
    } u;
};
struct sp_value_pair {
    sp_str_t key;     // UTF-8
    sp_value_t value; // value
};

sp_value_t sp_value_str(const char *z);
sp_value_t sp_value_int(int64_t i);
// Member of a map, or NULL.
const sp_value_t *sp_value_get(const sp_value_t *map, const char *key);

#endif
