// What most commands do: one request, one table.
#ifndef SP_SHARDCTL_SHOW_H
#define SP_SHARDCTL_SHOW_H

#include "tools/shardctl/rest.h"
#include "tools/shardctl/table.h"

// Requests (path and body are freed) and prints the list `field` of the reply, or the reply itself as a card where field is NULL; for
// --json the reply as it is. Exit code.
int show_list(const sp_rest_t *rest, char *path, const char *field, const sp_column_t *columns,
              size_t n, const char *none);
int show_card(const sp_rest_t *rest, const char *method, char *path, json_t *body,
              const sp_column_t *columns, size_t n);
// Requests and prints `done`.
int show_done(const sp_rest_t *rest, const char *method, char *path, json_t *body,
              const char *done);
void show_json(const json_t *reply);

#endif
