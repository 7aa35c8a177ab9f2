// Log sequence numbers: 64-bit, printed X/X.
#ifndef SP_PG_LSN_H
#define SP_PG_LSN_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/str.h"

typedef uint64_t sp_lsn_t; // 0 is invalid
#define SP_LSN_TEXT 20
int sp_lsn_parse(sp_str_t text, sp_lsn_t *ret_lsn, sp_error_t *err);
const char *sp_lsn_print(sp_lsn_t lsn, char out[SP_LSN_TEXT]); // returns out

#endif
