/* A small program for libshardplane: adds to one customer's balance, once, whatever is lost on the way, and shows where it lives.
 *
 *     make example && bin/example tcp://127.0.0.1:7601 42
 */
#include <inttypes.h>
#include <stdio.h>

#include "shardplane.h"

static int fail(const char *what, const shardplane_error_t *err)
{
    fprintf(stderr, "%s: %s: %s\n", what, err->name, err->message);
    return 1;
}

int main(int argc, char **argv)
{
    static const char sql[] =
        "UPDATE customers SET balance = balance + $1 WHERE id = $2 RETURNING balance";
    shardplane_t *sp = NULL;
    shardplane_options_t options = SHARDPLANE_OPTIONS_INIT;
    shardplane_request_t *request;
    shardplane_result_t *result = NULL;
    shardplane_owner_t owner;
    shardplane_error_t err;
    const char *routers[1];
    int rc;

    if (argc != 3) {
        fprintf(stderr, "usage: example ROUTER CUSTOMER-ID\n");
        return 2;
    }
    routers[0] = argv[1];
    options.routers = routers;
    options.routers_n = 1;
    if (shardplane_open(&sp, &options, &err) != SHARDPLANE_OK)
        return fail("open", &err);

    if (shardplane_route(sp, NULL, argv[2], &owner, &err) != SHARDPLANE_OK) {
        shardplane_close(&sp);
        return fail("route", &err);
    }
    printf("customer %s lives on %s (%s:%d), ring version %" PRId64 "\n", argv[2], owner.shard_id,
           owner.host, owner.port, owner.ring_version);

    request = shardplane_request_new(NULL, argv[2]);
    shardplane_request_statement(request, sql);
    shardplane_request_int(request, 10);
    shardplane_request_text(request, argv[2]);
    /* A lost answer is asked for again, not done again. */
    shardplane_request_idempotency_key(request, NULL);
    shardplane_request_deadline(request, 5000);
    rc = shardplane_execute(sp, request, &result, &err);
    if (rc == SHARDPLANE_OK && shardplane_result_rows(result, 0) == 1)
        printf("%s on %s: balance %" PRId64 "\n", shardplane_result_command(result, 0),
               shardplane_result_shard_id(result), shardplane_result_int(result, 0, 0, 0));
    else if (rc == SHARDPLANE_OK)
        printf("there is no such customer\n");
    shardplane_result_free(result);
    shardplane_request_free(request);
    shardplane_close(&sp);
    return rc == SHARDPLANE_OK ? 0 : fail("execute", &err);
}
