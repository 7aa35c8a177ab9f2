// Any bytes as the body of any message: refused or decoded, and what is decoded encodes again.
#include "common/wire/scan.h"
#include "common/wire/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 1)
        return 0;
    const sp_schema_t *schema = sp_schemas[data[0] % sp_schemas_n];
    sp_arena_t *arena = sp_arena_new(0);
    void *body = calloc(1, schema->size);
    if (arena && body && sp_wire_scan(data + 1, len - 1, SP_WIRE_MAX_DEPTH, NULL) == 0 &&
        sp_wire_decode_msgpack(schema, data + 1, len - 1, arena, body, NULL) == 0) {
        sp_buf_t again = SP_BUF_INIT;
        if (sp_wire_encode_msgpack(schema, body, &again, NULL) != 0)
            abort();
        sp_buf_free(&again);
    }
    free(body);
    sp_arena_destroy(&arena);
    return 0;
}
