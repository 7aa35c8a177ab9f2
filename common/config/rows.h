// Option rows: the common ones, merging, and what is printed from them.
#ifndef SP_CONFIG_ROWS_H
#define SP_CONFIG_ROWS_H

#include <stdio.h>

#include "common/config/config.h"

extern const sp_option_t sp_config_common_rows[];
extern const size_t sp_config_common_rows_n;

// The service's rows and the common ones that it does not replace, in a new array that the caller frees. NULL without memory.
const sp_option_t **sp_config_merge_rows(const sp_option_t *rows, size_t n, size_t *ret_n);
const sp_option_t *sp_config_find_row(const sp_option_t *const *rows, size_t n, const char *name);
// The known name nearest to a misspelt one, NULL when none is near.
const char *sp_config_nearest(const sp_option_t *const *rows, size_t n, const char *name);

void sp_config_print_help(FILE *out, const char *kind, const sp_option_t *const *rows, size_t n);
void sp_config_print_sample(FILE *out, const char *kind, const sp_option_t *const *rows, size_t n);

#endif
