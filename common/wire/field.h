// What decoders and encoders share: members of generated structs, bounds, defaults, and the path to a field for errors.
#ifndef SP_WIRE_FIELD_H
#define SP_WIRE_FIELD_H

#include <stdbool.h>
#include <stddef.h>

#include "common/wire/wire.h"

// Most fields a message may have: one bit each in the mask of those seen (checked by tools/schemagen.py).
#define SP_WIRE_MAX_FIELDS 64

// Where in a message we are; lives on the stack of the recursion.
typedef struct sp_path {
    const struct sp_path *up; // the message around, or NULL
    const char *name;         // field or key
    size_t index;             // in a list
    bool in_list;             // index counts
} sp_path_t;

// Fills err with "tables[2].schema: " and the text; returns code.
int sp_path_fail(const sp_path_t *path, int code, sp_error_t *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

// Bounds of the field: 0, SP_E_INVALID_ARGUMENT, SP_E_TOO_LARGE (bytes) or SP_E_MALFORMED (UTF-8).
int sp_field_check_int(const sp_field_t *f, const sp_path_t *path, int64_t v, sp_error_t *err);
int sp_field_check_float(const sp_field_t *f, const sp_path_t *path, double v, sp_error_t *err);
int sp_field_check_bytes(const sp_field_t *f, const sp_path_t *path, sp_str_t v, sp_error_t *err);
int sp_field_check_enum(const sp_field_t *f, const sp_path_t *path, int64_t v, sp_error_t *err);
int sp_field_check_items(const sp_field_t *f, const sp_path_t *path, size_t n, sp_error_t *err);

// Whether null (nil) says the same as an absent field: for all but a single free value, where it is a value.
bool sp_field_null_is_absent(const sp_field_t *f);
// Bytes of one element, in a list or alone.
size_t sp_field_element_size(const sp_field_t *f);
// A zeroed list of n elements in the struct; NULL with err set when the arena gives nothing. n > 0.
void *sp_field_make_list(const sp_field_t *f, const sp_path_t *path, void *body, size_t n,
                         sp_arena_t *arena, sp_error_t *err);
const void *sp_field_list(const sp_field_t *f, const void *body, size_t *ret_n);
// A zeroed part in the struct; NULL with err set when the arena gives nothing.
void *sp_field_make_part(const sp_field_t *f, const sp_path_t *path, void *body, sp_arena_t *arena,
                         sp_error_t *err);
const void *sp_field_part(const sp_field_t *f, const void *body);
void sp_field_set_has(const sp_field_t *f, void *body);
// Whether an encoder writes the field: has_x, or a value that is not zero, or a required number; see schemas/README.md.
bool sp_field_present(const sp_field_t *f, const void *body);

// Behind a decode: defaults for what was absent, SP_E_MISSING_FIELD where it was required. seen: bit i stands for fields[i].
int sp_field_complete(const sp_schema_t *schema, const sp_path_t *up, uint64_t seen, void *body,
                      sp_error_t *err);

// Enters a part or list element's message: depth and recursion are bounded. 0 or SP_E_MALFORMED.
int sp_field_check_depth(const sp_path_t *path, int depth, sp_error_t *err);

#endif
