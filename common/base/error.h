// Errors: every function that can fail returns 0 or a negative code of schemas/errors.json, and fills an optional sp_error_t.
#ifndef SP_BASE_ERROR_H
#define SP_BASE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "schemas/errors.h" // SP_OK, SP_E_INVALID_ARGUMENT, ...; sp_error_rows

typedef struct sp_error {
    int code;       // negative code of schemas/errors.json, or 0
    bool retryable; // whether the same call can succeed later; set from the code, may be overridden
    char sqlstate[6]; // SQLSTATE where PostgreSQL refused, else ""
    char text[1024];  // for people: what happened and what to do; never a secret
    char detail[512]; // PostgreSQL's DETAIL (e.g. the JSON of SHP01) or "", already redacted
} sp_error_t;

// Fills err (may be NULL) and returns code, so that `return sp_error_set(...)` reads well. Long texts are cut at a UTF-8 border,
// and what is not UTF-8 (a library's words, or a %.99s that cut a character) becomes ?.
int sp_error_set(sp_error_t *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#ifdef __clang_analyzer__ // it cannot see into the other file: whoever sets an error returns that error, never 0
#define sp_error_set(err, code, ...) ((sp_error_set)((err), (code), __VA_ARGS__), (code))
#endif
// PostgreSQL's DETAIL beside the text; NULL is "". Cut like a text.
void sp_error_set_detail(sp_error_t *err, const char *detail);
// Puts "context: " before the text that is there; returns err's code.
int sp_error_prefix(sp_error_t *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sp_error_clear(sp_error_t *err);

// Name of a code ("not_found"); "internal" for an unknown one. Static storage.
const char *sp_error_name(int code);
// Code of a name, or SP_E_INTERNAL.
int sp_error_code(const char *name);
// HTTP status of a code; 200 for 0, 500 for an unknown one.
int sp_error_http(int code);
bool sp_error_retryable(int code);

#endif
