// DSNs: what operators give us to reach PostgreSQL. Parsed with an allow-list, never echoed: libpq's own parse errors show passwords.
#ifndef SP_PG_DSN_H
#define SP_PG_DSN_H

#include "common/base/arena.h"
#include "common/base/error.h"

typedef struct sp_dsn {
    const char *host;                                     // name or address; required
    int port;                                             // 1..65535, default 5432
    const char *database;                                 // required
    const char *user;                                     // required
    const char *password;                                 // NULL when absent
    const char *sslmode, *sslrootcert, *sslcert, *sslkey; // NULL when absent
    const char *application_name;                         // NULL when absent
} sp_dsn_t;

// URI (postgresql://, postgres://) or key=value form. Allowed: the members above, connect_timeout, keepalives*, target_session_attrs is
// refused, as are service, passfile, options, several hosts and unknown parameters. invalid_argument without the text itself.
int sp_dsn_parse(sp_str_t text, sp_arena_t *arena, sp_dsn_t *ret_dsn, sp_error_t *err);
// A copy that stands in the arena alone; false without memory.
bool sp_dsn_copy(const sp_dsn_t *dsn, sp_arena_t *arena, sp_dsn_t *ret_copy);
// "postgresql://user@host:port/database", for people and logs.
const char *sp_dsn_redact(const sp_dsn_t *dsn, sp_arena_t *arena);
// URI with everything, for sealing.
const char *sp_dsn_uri(const sp_dsn_t *dsn, sp_arena_t *arena);
// Replaces every occurrence of the DSN's password in text (error messages) by ***; in place.
void sp_dsn_scrub(const sp_dsn_t *dsn, char *text);

#endif
