// Any bytes as a DSN: refused, or parsed into something that its own URI gives back.
#include "common/pg/dsn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    sp_arena_t *arena = sp_arena_new(0);
    sp_dsn_t dsn = {0}, again = {0};
    sp_error_t err = {0};
    if (arena && sp_dsn_parse((sp_str_t){(const char *)data, len}, arena, &dsn, &err) == 0) {
        const char *uri = sp_dsn_uri(&dsn, arena);
        if (!uri || !sp_dsn_redact(&dsn, arena) ||
            sp_dsn_parse(sp_str(uri), arena, &again, &err) != 0 ||
            strcmp(dsn.host, again.host) != 0)
            abort();
    }
    sp_arena_destroy(&arena);
    return 0;
}
