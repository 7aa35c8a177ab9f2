// Checks of single values.
#ifndef SP_CONFIG_CHECK_H
#define SP_CONFIG_CHECK_H

#include "common/config/config.h"

// NULL when the text is a valid value of the row, else what is wrong with it, for people. why: scratch of why_size bytes.
const char *sp_config_check_text(const sp_option_t *row, const char *text, char *why,
                                 size_t why_size);
const char *sp_config_check_int(const sp_option_t *row, int64_t value, char *why, size_t why_size);
// Splits host:port at the last colon; port -1 for `*`. False when it is malformed or the port is over 65535.
bool sp_config_split_address(const char *address, char *host, size_t host_size, int *ret_port);

#endif
