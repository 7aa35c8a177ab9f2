// One engine that encodes, decodes and validates msgpack and JSON from field tables generated out of schemas/.
// Rules and C mapping: schemas/README.md. Decoded strings borrow from the input (msgpack) or the arena (JSON); all else is in the arena.
#ifndef SP_WIRE_WIRE_H
#define SP_WIRE_WIRE_H

#include <stddef.h>

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/error.h"
#include "common/wire/value.h"

#define SP_WIRE_MAX_BYTES (1024 * 1024) // unless the schema's max_bytes says more
#define SP_WIRE_MAX_DEPTH 16

typedef enum {
    SP_T_BOOL,
    SP_T_INT,
    SP_T_FLOAT,
    SP_T_STRING,
    SP_T_BYTES,
    SP_T_VALUE,
    SP_T_ENUM,
    SP_T_PART
} sp_wire_type_t;

typedef struct sp_enum_row {
    const char *name; // as in JSON
    int64_t value;    // as in msgpack
} sp_enum_row_t;

typedef struct sp_enum {
    const char *name;          // schema name
    const sp_enum_row_t *rows; // values
    size_t n;                  // count
} sp_enum_t;

typedef struct sp_schema sp_schema_t;
typedef struct sp_field {
    uint16_t id;                  // number in msgpack
    const char *name;             // name in JSON
    sp_wire_type_t type;          // element type for a list
    bool list;                    // list of type
    bool required;                // decode fails without it
    bool json_string;             // int written as a JSON string (both forms are read)
    bool secret;                  // left out of logs and answers
    char in;                      // 'b' body, 'p' path, 'q' query
    int64_t min, max;             // value bounds (int) or byte bounds (string, bytes)
    size_t max_items;             // lists
    const char *def;              // default as JSON text, or NULL
    const sp_enum_t *enumeration; // SP_T_ENUM
    const sp_schema_t *part;      // SP_T_PART
    size_t offset;                // of the member in the struct
    size_t has_offset;            // of has_x; 0 where the type has none
} sp_field_t;

struct sp_schema {
    const char *name;         // message name
    uint16_t id;              // message id, 0 for a part
    size_t size;              // sizeof the struct
    size_t max_bytes;         // largest encoding
    const sp_field_t *fields; // ascending ids
    size_t n;                 // count
    const char *service;      // who handles it, or NULL
    const char *method;       // REST method, or NULL
    const char *path;         // REST path with {field}
    int status;               // REST status on success
    const char *permission;   // or NULL
    const sp_schema_t *reply; // or NULL
    const sp_schema_t
        *other_reply; // a second kind of success, REST status 200 (a dry run's plan), or NULL
};

// All schemas with an id, ascending by id (generated).
extern const sp_schema_t *const sp_schemas[];
extern const size_t sp_schemas_n;
const sp_schema_t *sp_schema_by_id(uint16_t id); // NULL when unknown
const sp_schema_t *sp_schema_by_name(const char *name);
const char *sp_enum_name(const sp_enum_t *e, int64_t value); // "unknown" when it is none
int sp_enum_value(const sp_enum_t *e, sp_str_t name, int64_t *ret_value);

// Decode into *ret_body, a struct of schema->size bytes that the caller zeroes or not (it is zeroed here). Errors name the field:
// malformed, too_large, missing_field, invalid_argument, unknown_field (JSON only).
int sp_wire_decode_msgpack(const sp_schema_t *schema, const void *data, size_t len,
                           sp_arena_t *arena, void *ret_body, sp_error_t *err);
int sp_wire_decode_json(const sp_schema_t *schema, const char *text, size_t len, sp_arena_t *arena,
                        void *ret_body, sp_error_t *err);
// A map value (e.g. an element of list:value) as a message.
int sp_wire_decode_value(const sp_schema_t *schema, const sp_value_t *map, sp_arena_t *arena,
                         void *ret_body, sp_error_t *err);
// Encode; the same bounds are checked as in decoding, so that we never send what a peer must refuse. JSON: fields marked secret are
// left out unless `with_secrets` (the catalog), and empty lists are shown as [].
int sp_wire_encode_msgpack(const sp_schema_t *schema, const void *body, sp_buf_t *out,
                           sp_error_t *err);
int sp_wire_encode_json(const sp_schema_t *schema, const void *body, bool with_secrets,
                        sp_buf_t *out, sp_error_t *err);

// Free-standing values.
int sp_wire_value_from_json(const char *text, size_t len, sp_arena_t *arena, sp_value_t *ret_value,
                            sp_error_t *err);
int sp_wire_value_to_json(const sp_value_t *value, sp_buf_t *out, sp_error_t *err);
int sp_wire_value_from_msgpack(const void *data, size_t len, sp_arena_t *arena,
                               sp_value_t *ret_value, sp_error_t *err);
int sp_wire_value_to_msgpack(const sp_value_t *value, sp_buf_t *out, sp_error_t *err);

#endif
