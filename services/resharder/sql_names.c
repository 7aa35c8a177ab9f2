#include "services/resharder/sql_names.h"

#include "common/base/buf.h"

const char *sql_columns(sp_arena_t *arena, const sp_str_t *names, size_t n)
{
    sp_buf_t out = SP_BUF_INIT;
    for (size_t i = 0; i < n; i++) {
        const char *quoted = sp_pg_ident(arena, names[i]);
        out.failed = out.failed || quoted == NULL;
        sp_buf_printf(&out, "%s%s", i > 0 ? ", " : "", quoted != NULL ? quoted : "");
    }
    const char *result = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return result;
}
