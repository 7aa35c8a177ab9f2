// From an HTTP request line to a message: routes, percent decoding and query fields, all out of the schemas. Pure.
#ifndef SP_GATEWAY_PURE_ROUTES_H
#define SP_GATEWAY_PURE_ROUTES_H

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/wire/wire.h"

// Most fields that path and query may give together.
#define SP_ROUTE_MAX_FIELDS 32

typedef struct sp_route_fields {
    sp_value_pair_t pairs[SP_ROUTE_MAX_FIELDS]; // name, text; keys unique
    size_t n;                                   // count
} sp_route_fields_t;

// Splits "path?query" (as sent, still encoded). A fragment is not expected here.
void sp_route_split(sp_str_t uri, sp_str_t *ret_path, sp_str_t *ret_query);
// %XX to bytes, and + to a space where `plus`. The result is text: SP_E_MALFORMED for a bad escape, NUL or bytes that are not UTF-8.
int sp_route_unescape(sp_str_t text, bool plus, sp_arena_t *arena, sp_str_t *ret_text,
                      sp_error_t *err);
// The message of method and path, with the fields that the path gives, as text. SP_E_NOT_FOUND; SP_E_METHOD_NOT_ALLOWED with the
// methods that would do in `allow` ("GET, POST"); SP_E_MALFORMED. HEAD counts as GET.
int sp_route_find(const char *method, sp_str_t path, sp_arena_t *arena,
                  const sp_schema_t **ret_schema, sp_route_fields_t *fields, char *allow,
                  size_t allow_size, sp_error_t *err);
// Adds the fields of the query, as text. SP_E_UNKNOWN_FIELD for one that the message does not take from the query, SP_E_MALFORMED
// for a repeated one.
int sp_route_query(const sp_schema_t *schema, sp_str_t query, sp_arena_t *arena,
                   sp_route_fields_t *fields, sp_error_t *err);
// Path, query and body (a map, or NULL for none) as one message. Errors as sp_wire_decode_value; a field that stands in two places
// is SP_E_MALFORMED.
int sp_route_message(const sp_schema_t *schema, const sp_route_fields_t *fields,
                     const sp_value_t *body, sp_arena_t *arena, void *ret_body, sp_error_t *err);

#endif
