// Errors: codes from the generated list, text cut without breaking a character.
#include "common/base/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/str.h"

// Cuts an incomplete UTF-8 sequence off the end of a text that was shortened.
static void cut_at_border(char *text)
{
    size_t len = strlen(text);
    size_t back = 0;
    while (back < 3 && back < len && ((unsigned char)text[len - 1 - back] & 0xC0) == 0x80)
        back++;
    if (back >= len)
        return;
    unsigned char lead = (unsigned char)text[len - 1 - back];
    size_t need = lead < 0x80 ? 1 : (lead & 0xE0) == 0xC0 ? 2 : (lead & 0xF0) == 0xE0 ? 3 : 4;
    if (lead >= 0xC0 && back + 1 < need)
        text[len - 1 - back] = '\0';
}

// What cannot be sent on as UTF-8 would take the whole error with it.
static void put(char *out, size_t size, const char *text, bool cut)
{
    size_t len = strlen(text);
    if (len >= size) {
        len = size - 1;
        cut = true;
    }
    memcpy(out, text, len);
    out[len] = '\0';
    if (cut)
        cut_at_border(out);
    sp_str_make_utf8(out);
}

// The arguments may point into err, so the text is made aside.
static void put_text(sp_error_t *err, const char *text, bool cut)
{
    put(err->text, sizeof err->text, text, cut);
}

int(sp_error_set)(sp_error_t *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char text[sizeof err->text];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        text[0] = '\0';
    err->code = code;
    err->retryable = sp_error_retryable(code);
    err->sqlstate[0] = '\0';
    err->detail[0] = '\0';
    put_text(err, text, n >= (int)sizeof text);
    return code;
}

void sp_error_set_detail(sp_error_t *err, const char *detail)
{
    if (err)
        put(err->detail, sizeof err->detail, detail ? detail : "", false);
}

int sp_error_prefix(sp_error_t *err, const char *fmt, ...)
{
    if (!err)
        return SP_E_INTERNAL;
    char text[2 * sizeof err->text + 2];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return err->code;
    size_t len = strlen(text);
    snprintf(text + len, sizeof text - len, ": %s", err->text);
    put_text(err, text, n >= (int)sizeof err->text);
    return err->code;
}

void sp_error_clear(sp_error_t *err)
{
    if (err)
        *err = (sp_error_t){0};
}

const char *sp_error_name(int code)
{
    if (code == 0)
        return "ok";
    for (size_t i = 0; i < sp_error_rows_n; i++)
        if (sp_error_rows[i].code == code)
            return sp_error_rows[i].name;
    return "internal";
}

int sp_error_code(const char *name)
{
    for (size_t i = 0; name && i < sp_error_rows_n; i++)
        if (strcmp(sp_error_rows[i].name, name) == 0)
            return sp_error_rows[i].code;
    return SP_E_INTERNAL;
}

int sp_error_http(int code)
{
    if (code == 0)
        return 200;
    for (size_t i = 0; i < sp_error_rows_n; i++)
        if (sp_error_rows[i].code == code)
            return sp_error_rows[i].http;
    return 500;
}

bool sp_error_retryable(int code)
{
    for (size_t i = 0; i < sp_error_rows_n; i++)
        if (sp_error_rows[i].code == code)
            return sp_error_rows[i].retry;
    return false;
}
