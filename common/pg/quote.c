// Quoting that needs no connection, so that SQL can be put together in pure code. pg.h declares it.
#include <string.h>

#include "common/base/arena.h"
#include "common/pg/pg.h"

// text between two marks, the mark inside doubled; `escape` also doubles backslashes.
static const char *quoted(sp_arena_t *arena, sp_str_t text, const char *open, char mark,
                          bool escape)
{
    size_t extra = strlen(open) + 2;
    if (text.len > 0 && memchr(text.ptr, 0, text.len) != NULL)
        return NULL; // PostgreSQL has no NUL in text: what stands behind it would be lost
    for (size_t i = 0; i < text.len; i++)
        extra += text.ptr[i] == mark || (escape && text.ptr[i] == '\\');
    char *out = sp_arena_alloc(arena, text.len + extra, 1), *at = out;
    if (out == NULL)
        return NULL;
    at = stpcpy(at, open);
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == mark || (escape && text.ptr[i] == '\\'))
            *at++ = text.ptr[i];
        *at++ = text.ptr[i];
    }
    *at++ = mark;
    *at = 0;
    return out;
}

const char *sp_pg_ident(sp_arena_t *arena, sp_str_t name)
{
    return quoted(arena, name, "\"", '"', false);
}

const char *sp_pg_literal(sp_arena_t *arena, sp_str_t text)
{
    // E'' reads the same whatever standard_conforming_strings says.
    bool escape = text.len > 0 && memchr(text.ptr, '\\', text.len) != NULL;
    return quoted(arena, text, escape ? " E'" : "'", '\'', escape);
}

const char *sp_pg_qualified(sp_arena_t *arena, sp_str_t schema, sp_str_t table)
{
    const char *s = sp_pg_ident(arena, schema), *t = sp_pg_ident(arena, table);
    return s != NULL && t != NULL ? sp_arena_printf(arena, "%s.%s", s, t) : NULL;
}
