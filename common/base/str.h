// Borrowed strings: pointer and length, not terminated.
#ifndef SP_BASE_STR_H
#define SP_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sp_str {
    const char *ptr; // bytes, not terminated; NULL means absent
    size_t len;      // bytes
} sp_str_t;

#define SP_STR(literal) ((sp_str_t){(literal), sizeof(literal) - 1})
#define SP_STR_FMT      "%.*s"
#define SP_STR_ARG(s)   (int)(s).len, (s).ptr ? (s).ptr : ""

sp_str_t sp_str(const char *z);         // NULL gives the absent string
bool sp_str_eq(sp_str_t a, sp_str_t b); // absent equals only absent
bool sp_str_eqz(sp_str_t a, const char *z);
int sp_str_cmp(sp_str_t a, sp_str_t b); // byte order
bool sp_str_starts(sp_str_t s, const char *prefix);
bool sp_str_valid_utf8(sp_str_t s); // strict UTF-8 without NUL, surrogates and overlong forms
// In place: each byte that is part of no valid sequence becomes ?.
void sp_str_make_utf8(char *text);
// Whole string as a decimal int64: 0 or SP_E_INVALID_ARGUMENT. No sign but '-', no spaces.
int sp_str_to_int64(sp_str_t s, int64_t *ret_value);
// Value of a hex digit of either case, or -1.
int sp_str_hex_digit(char c);
// Names that end up in object names and keys: 1..63 of [a-z0-9_-], first a letter or digit.
bool sp_str_valid_name(sp_str_t s);

#endif
