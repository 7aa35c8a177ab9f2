#include "common/pg/lsn.h"

#include <stdio.h>

// One half: 1..8 hex digits from *at, which moves behind them.
static int parse_half(sp_str_t text, size_t *at, uint64_t *ret_value)
{
    uint64_t value = 0;
    size_t n = 0;
    for (; *at < text.len && sp_str_hex_digit(text.ptr[*at]) >= 0; (*at)++, n++)
        value = value << 4 | (uint64_t)sp_str_hex_digit(text.ptr[*at]);
    *ret_value = value;
    return n >= 1 && n <= 8 ? 0 : -1;
}

int sp_lsn_parse(sp_str_t text, sp_lsn_t *ret_lsn, sp_error_t *err)
{
    uint64_t high = 0, low = 0;
    size_t at = 0;
    if (text.ptr == NULL || text.len > 17 || parse_half(text, &at, &high) != 0 || at >= text.len ||
        text.ptr[at++] != '/' || parse_half(text, &at, &low) != 0 || at != text.len)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "not a log sequence number (X/X in hexadecimal)");
    *ret_lsn = high << 32 | low;
    return 0;
}

const char *sp_lsn_print(sp_lsn_t lsn, char out[SP_LSN_TEXT])
{
    snprintf(out, SP_LSN_TEXT, "%X/%X", (unsigned)(lsn >> 32), (unsigned)(lsn & 0xffffffffu));
    return out;
}
