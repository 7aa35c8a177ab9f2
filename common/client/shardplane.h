/*
 * libshardplane: talk to Shardplane's routers, and route in your own process.
 *
 * Plain C99. Every function is safe to call from any thread, and blocks at most its timeout. Functions return SHARDPLANE_OK or a
 * negative code and fill an optional shardplane_error_t; the codes are those of every other interface of Shardplane.
 * Strings are UTF-8, ended by a NUL, and copied unless it says otherwise.
 *
 *     shardplane_t *sp;
 *     const char *routers[] = {"tcp://127.0.0.1:7601"};
 *     shardplane_options_t options = SHARDPLANE_OPTIONS_INIT;
 *     options.routers = routers;
 *     options.routers_n = 1;
 *     shardplane_open(&sp, &options, &err);
 */
#ifndef SHARDPLANE_H
#define SHARDPLANE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHARDPLANE_VERSION "0.1.0"

typedef enum shardplane_code {
    SHARDPLANE_OK = 0,
    SHARDPLANE_E_INVALID_ARGUMENT = -1,
    SHARDPLANE_E_MALFORMED = -2,
    SHARDPLANE_E_MISSING_FIELD = -4,
    SHARDPLANE_E_TOO_LARGE = -5,
    SHARDPLANE_E_UNSUPPORTED_VERSION = -6,
    SHARDPLANE_E_UNKNOWN_MESSAGE = -7,
    SHARDPLANE_E_UNAUTHENTICATED = -8,
    SHARDPLANE_E_FORBIDDEN = -9,
    SHARDPLANE_E_NOT_FOUND = -10,
    SHARDPLANE_E_CONFLICT = -13,
    SHARDPLANE_E_IDEMPOTENCY_MISMATCH = -17,
    SHARDPLANE_E_KEY_MISMATCH = -18, /* a statement touches a row of another key */
    SHARDPLANE_E_SQL_ERROR = -19,    /* PostgreSQL refused; see sqlstate */
    SHARDPLANE_E_RATE_LIMITED = -20,
    SHARDPLANE_E_INTERNAL = -22,
    SHARDPLANE_E_OUT_OF_MEMORY = -23,
    SHARDPLANE_E_UNAVAILABLE = -25,
    SHARDPLANE_E_CATALOG_UNAVAILABLE = -27,
    SHARDPLANE_E_IN_TRANSITION = -28, /* the key is being moved: wait, try again */
    SHARDPLANE_E_NOT_OWNER = -29, /* the shard does not own the key: get a newer ring, try again */
    SHARDPLANE_E_NO_OWNER = -30,
    SHARDPLANE_E_DEADLINE_EXCEEDED = -31, /* nothing was changed */
    SHARDPLANE_E_OUTCOME_UNKNOWN = -32,   /* it may or may not have been committed */
    SHARDPLANE_E_PG_CONNECTION = -34
} shardplane_code_t;

typedef struct shardplane_error {
    int code;           /* SHARDPLANE_E_* or another code of Shardplane; 0 none */
    int retryable;      /* whether the same call can succeed later */
    char name[32];      /* "outcome_unknown" */
    char sqlstate[6];   /* SQLSTATE where PostgreSQL refused, else "" */
    char message[1024]; /* for people */
    char detail[512];   /* PostgreSQL's DETAIL, or "" */
} shardplane_error_t;

/* "0.1.0"; static storage. */
const char *shardplane_version(void);
/* "not_found"; "internal" for an unknown code; static storage. */
const char *shardplane_code_name(int code);

/* ---- a client ---- */

typedef struct shardplane shardplane_t;

typedef struct shardplane_options {
    size_t size; /* sizeof(shardplane_options_t), so that later releases can add members */
    const char *const *routers; /* their ROUTER sockets, "tcp://host:port"; at least one */
    size_t routers_n;           /* count */
    const char *const
        *feeds; /* their PUB sockets: ring changes arrive at once; without any, within a second */
    size_t feeds_n; /* count */
    int timeout_ms; /* of calls that name none; 0: 30000 */
} shardplane_options_t;
#define SHARDPLANE_OPTIONS_INIT                                                                    \
    {                                                                                              \
        sizeof(shardplane_options_t), NULL, 0, NULL, 0, 0                                          \
    }

/* Makes no connection yet. INVALID_ARGUMENT, OUT_OF_MEMORY. */
int shardplane_open(shardplane_t **ret_self, const shardplane_options_t *options,
                    shardplane_error_t *err);
/* No call may be under way. Takes NULL. */
void shardplane_close(shardplane_t **self_p);

/* ---- where a key lives ---- */

typedef struct shardplane_owner {
    char shard_id[64];    /* its name */
    char host[256];       /* its primary, where it is known, else "" */
    int port;             /* its primary's port, or 0 */
    char database[64];    /* its primary's database, or "" */
    int64_t hash;         /* of the key */
    int64_t ring_version; /* of the ring that said so */
} shardplane_owner_t;

/* Asks a router. keyspace NULL: "default". NOT_FOUND, NO_OWNER, INVALID_ARGUMENT, UNAVAILABLE, CATALOG_UNAVAILABLE. */
int shardplane_shard_for_key(shardplane_t *self, const char *keyspace, const char *key,
                             shardplane_owner_t *ret_owner, shardplane_error_t *err);
/* The same in this process, from a copy of the ring that a thread keeps up to date; only the first call for a keyspace asks a
 * router. The copy may be old, which is harmless as long as writes go to the owner's database: its guards refuse what it does not
 * own with SQLSTATE SHP01 (see shardplane_refusal). */
int shardplane_route(shardplane_t *self, const char *keyspace, const char *key,
                     shardplane_owner_t *ret_owner, shardplane_error_t *err);
/* Waits until the local ring is newer than ring_version. DEADLINE_EXCEEDED. */
int shardplane_wait_newer(shardplane_t *self, const char *keyspace, int64_t ring_version,
                          int timeout_ms, shardplane_error_t *err);

/* ---- statements through a router ---- */

/* A request is built, executed (also more than once), then freed. The builders return nothing: the first fault is kept and told by
 * shardplane_execute. All take NULL. */
typedef struct shardplane_request shardplane_request_t;
typedef struct shardplane_result shardplane_result_t;

/* keyspace NULL: "default". NULL when memory runs out. */
shardplane_request_t *shardplane_request_new(const char *keyspace, const char *key);
void shardplane_request_free(shardplane_request_t *self);
/* Adds a statement with $1..$n; all statements run in order as one transaction. */
void shardplane_request_statement(shardplane_request_t *self, const char *sql);
/* Adds the next parameter of the last statement. */
void shardplane_request_null(shardplane_request_t *self);
void shardplane_request_bool(shardplane_request_t *self, int value);
void shardplane_request_int(shardplane_request_t *self, int64_t value);
void shardplane_request_float(shardplane_request_t *self, double value);
void shardplane_request_text(shardplane_request_t *self, const char *value);
void shardplane_request_bytes(shardplane_request_t *self, const void *value, size_t len);
/* With a key, a repeated request gives the first one's result, so that a lost answer can be asked for again safely: by this library
 * within the deadline, and by the caller after OUTCOME_UNKNOWN. NULL: a random one. At most 128 bytes. */
void shardplane_request_idempotency_key(shardplane_request_t *self, const char *key);
/* One read-only statement, that may run on a replica and see somewhat older rows. */
void shardplane_request_eventual(shardplane_request_t *self);
/* For all tries together; 1 to 600000. */
void shardplane_request_deadline(shardplane_request_t *self, int timeout_ms);

/* Runs it. Tries again by itself, until the deadline, where that cannot do it twice: when a router says that nothing was changed and
 * it may work later, when no router could be reached, and after a lost answer if the request has an idempotency key or is eventual.
 * Otherwise a lost answer is OUTCOME_UNKNOWN, and with an idempotency key it is that when no later try got an answer. TOO_LARGE for a
 * result that does not fit: it was executed, or with an idempotency key rolled back. ret_result may be NULL; free it. */
int shardplane_execute(shardplane_t *self, const shardplane_request_t *request,
                       shardplane_result_t **ret_result, shardplane_error_t *err);

void shardplane_result_free(shardplane_result_t *self);
/* What the accessors return belongs to the result. Indexes out of range give 0, NULL or SHARDPLANE_NULL. */
const char *shardplane_result_shard_id(const shardplane_result_t *self);
int64_t shardplane_result_ring_version(const shardplane_result_t *self);
int64_t
shardplane_result_attempts(const shardplane_result_t *self); /* of the router that answered */
int64_t
shardplane_result_parked_ms(const shardplane_result_t *self); /* waited for a shard to open */
size_t shardplane_result_statements(const shardplane_result_t *self);
const char *shardplane_result_command(const shardplane_result_t *self,
                                      size_t statement); /* "UPDATE 1" */
int64_t shardplane_result_rows_affected(const shardplane_result_t *self, size_t statement);
size_t shardplane_result_columns(const shardplane_result_t *self, size_t statement);
const char *shardplane_result_column_name(const shardplane_result_t *self, size_t statement,
                                          size_t column);
size_t shardplane_result_rows(const shardplane_result_t *self, size_t statement);

typedef enum shardplane_type {
    SHARDPLANE_NULL,
    SHARDPLANE_BOOL,
    SHARDPLANE_INT,
    SHARDPLANE_FLOAT,
    SHARDPLANE_TEXT,
    SHARDPLANE_BYTES
} shardplane_type_t;

shardplane_type_t shardplane_result_type(const shardplane_result_t *self, size_t statement,
                                         size_t row, size_t column);
int64_t shardplane_result_int(const shardplane_result_t *self, size_t statement, size_t row,
                              size_t column);
double shardplane_result_float(const shardplane_result_t *self, size_t statement, size_t row,
                               size_t column);
/* Text or bytes, ended by a NUL behind ret_len (may be NULL); NULL for other types. */
const char *shardplane_result_text(const shardplane_result_t *self, size_t statement, size_t row,
                                   size_t column, size_t *ret_len);

/* ---- statements straight to the owner, over the application's own connections ---- */

/* What a shard's refusal means: SHARDPLANE_E_IN_TRANSITION or SHARDPLANE_E_NOT_OWNER for SQLSTATE SHP01, else 0. Arguments as
 * PQresultErrorField gives them (PG_DIAG_SQLSTATE, PG_DIAG_MESSAGE_DETAIL); each may be NULL. */
int shardplane_refusal(const char *sqlstate, const char *detail);

/* Runs one transaction against the owner's database with the caller's own driver, and commits it. Returns SHARDPLANE_OK, the code of
 * shardplane_refusal when the shard refused (and the transaction is rolled back), or any other negative code, which ends
 * shardplane_transaction; then fill err. To be sure of reads and of statements that matched no row, let the last statement be
 * SELECT shardplane.assert_owner(keyspace, key). */
typedef int shardplane_transaction_fn(void *arg, const shardplane_owner_t *owner,
                                      shardplane_error_t *err);
/* Calls fn with the key's owner; after a refusal waits for a newer ring or a short random time, and calls it again, until the
 * deadline: then the last refusal is returned. */
int shardplane_transaction(shardplane_t *self, const char *keyspace, const char *key,
                           int timeout_ms, shardplane_transaction_fn *fn, void *arg,
                           shardplane_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
