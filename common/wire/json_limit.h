// Most bytes of JSON text for a message.
#ifndef SP_WIRE_JSON_LIMIT_H
#define SP_WIRE_JSON_LIMIT_H

#include "common/wire/wire.h"

// A message with an id is bounded in msgpack; names, quotes and decimal digits make its JSON up to some four times as long. A
// part stands on its own only as JSON (values of the catalog): there max_bytes means the text.
static inline size_t sp_json_limit(const sp_schema_t *schema)
{
    return schema->id != 0 ? 4 * schema->max_bytes : schema->max_bytes;
}

#endif
