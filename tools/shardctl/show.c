#include "tools/shardctl/show.h"

#include <stdio.h>

void show_json(const json_t *reply)
{
    table_json(stdout, reply);
}

int show_list(const sp_rest_t *rest, char *path, const char *field, const sp_column_t *columns,
              size_t n, const char *none)
{
    json_t *reply = NULL;
    int code = rest_call(rest, "GET", path, NULL, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE && json_array_size(json_object_get(reply, field)) == 0) {
        printf("%s\n", none);
    } else if (code == EXIT_DONE) {
        table_print(stdout, json_object_get(reply, field), columns, n);
    }
    json_decref(reply);
    return code;
}

int show_card(const sp_rest_t *rest, const char *method, char *path, json_t *body,
              const sp_column_t *columns, size_t n)
{
    json_t *reply = NULL;
    int code = rest_call(rest, method, path, body, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        table_card(stdout, reply, columns, n);
    }
    json_decref(reply);
    return code;
}

int show_done(const sp_rest_t *rest, const char *method, char *path, json_t *body, const char *done)
{
    json_t *reply = NULL;
    int code = rest_call(rest, method, path, body, &reply);
    if (code == EXIT_DONE && rest->json) {
        show_json(reply);
    } else if (code == EXIT_DONE) {
        printf("%s\n", done);
    }
    json_decref(reply);
    return code;
}
