// Lists of quoted names for SQL texts.
#ifndef SP_RESHARDER_SQL_NAMES_H
#define SP_RESHARDER_SQL_NAMES_H

#include "common/base/arena.h"
#include "common/pg/pg.h"

// `"a", "B c"`, from the arena; NULL without memory.
const char *sql_columns(sp_arena_t *arena, const sp_str_t *names, size_t n);

#endif
