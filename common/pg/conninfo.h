// What every connection of ours asks of libpq and the server: pinned settings, keepalives. Used by pg.c and pipe.c.
#ifndef SP_PG_CONNINFO_H
#define SP_PG_CONNINFO_H

#include <libpq-fe.h>

#include "common/base/error.h"
#include "common/pg/dsn.h"

#define SP_CONNINFO_MAX 24

// Takes libpq's variables (PGHOSTADDR, PGSERVICE, PGPASSWORD and so on) out of the environment: a connection is what its DSN says, and
// libpq lets them fill in whatever a DSN leaves open. Call it before the first thread.
void sp_conninfo_ignore_environment(void);

typedef struct sp_conninfo {
    const char *keywords[SP_CONNINFO_MAX]; // NULL-terminated, for PQconnectStartParams
    const char *values[SP_CONNINFO_MAX];   // same places
    int n;                                 // in use
    char port[8];                          // text of the port
    char *options;                         // owned: "-c name=value ..."
} sp_conninfo_t;

// dsn, application_name are borrowed as long as self is used. search_path NULL: pg_catalog, "": the role's own. more: further "name=value" settings,
// NULL-terminated, or NULL. SP_E_OUT_OF_MEMORY. After success free with sp_conninfo_free().
int sp_conninfo_make(sp_conninfo_t *self, const sp_dsn_t *dsn, const char *application_name,
                     const char *search_path, bool replication, const char *const *more,
                     sp_error_t *err);
void sp_conninfo_free(sp_conninfo_t *self);

// For PQsetNoticeReceiver(): notices are for psql's users, and libpq would write them into our log.
void sp_conninfo_drop_notice(void *arg, const PGresult *result);

// pg_connection from a connection that failed, libpq's words scrubbed of the password and of line ends. SQLSTATE is not known here.
int sp_conninfo_failed(const sp_dsn_t *dsn, const char *what, const char *words, sp_error_t *err);

#endif
