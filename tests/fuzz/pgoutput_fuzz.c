// Any bytes as a message of the replication stream.
#include "common/pg/pgoutput.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    sp_arena_t *arena = sp_arena_new(0);
    sp_pgo_message_t message;
    sp_error_t err = {0};
    if (arena)
        sp_pgo_parse(data, len, arena, &message, &err);
    sp_arena_destroy(&arena);
    return 0;
}
