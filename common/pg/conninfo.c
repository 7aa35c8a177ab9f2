#include "common/pg/conninfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"

// Whatever a role, a database or the operator's environment says: text forms and name lookup are these.
static const char *const pinned[] = {"client_encoding=UTF8",
                                     "DateStyle=ISO, MDY",
                                     "IntervalStyle=postgres",
                                     "TimeZone=UTC",
                                     "extra_float_digits=3",
                                     "bytea_output=hex",
                                     "default_transaction_isolation=read committed",
                                     "standard_conforming_strings=on",
                                     NULL};

// -c name=value with blanks and backslashes escaped, as the server splits the options.
static void add_option(sp_buf_t *out, const char *name, const char *value)
{
    sp_buf_addz(out, out->len > 0 ? " -c " : "-c ");
    sp_buf_addz(out, name);
    for (const char *c = value; *c != 0; c++) {
        if (*c == ' ' || *c == '\\' || *c == '\t' || *c == '\n')
            sp_buf_addc(out, '\\');
        sp_buf_addc(out, *c);
    }
}

static void add(sp_conninfo_t *self, const char *keyword, const char *value)
{
    if (value == NULL || self->n + 1 >= SP_CONNINFO_MAX)
        return;
    self->keywords[self->n] = keyword;
    self->values[self->n++] = value;
    self->keywords[self->n] = self->values[self->n] = NULL;
}

void sp_conninfo_ignore_environment(void)
{
    PQconninfoOption *all = PQconndefaults();
    for (const PQconninfoOption *o = all; o != NULL && o->keyword != NULL; o++)
        if (o->envvar != NULL)
            unsetenv(o->envvar);
    PQconninfoFree(all);
}

int sp_conninfo_make(sp_conninfo_t *self, const sp_dsn_t *dsn, const char *application_name,
                     const char *search_path, bool replication, const char *const *more,
                     sp_error_t *err)
{
    *self = (sp_conninfo_t){0};
    sp_buf_t options = SP_BUF_INIT;
    for (size_t i = 0; pinned[i] != NULL; i++)
        add_option(&options, "", pinned[i]);
    if (search_path == NULL || search_path[0] != 0)
        add_option(&options, "search_path=", search_path != NULL ? search_path : "pg_catalog");
    for (size_t i = 0; more != NULL && more[i] != NULL; i++)
        add_option(&options, "", more[i]);
    if (options.failed) {
        sp_buf_free(&options);
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection's options");
    }
    self->options = options.data;
    snprintf(self->port, sizeof self->port, "%d", dsn->port);
    add(self, "host", dsn->host);
    add(self, "port", self->port);
    add(self, "dbname", dsn->database);
    add(self, "user", dsn->user);
    add(self, "password", dsn->password);
    add(self, "sslmode", dsn->sslmode);
    add(self, "sslrootcert", dsn->sslrootcert);
    add(self, "sslcert", dsn->sslcert);
    add(self, "sslkey", dsn->sslkey);
    add(self, "gssencmode", "disable"); // would cost a round trip and a ticket look-up
    add(self, "application_name",
        application_name != NULL ? application_name : dsn->application_name);
    add(self, "client_encoding", "UTF8");
    add(self, "options", self->options);
    add(self, "replication", replication ? "database" : NULL);
    add(self, "keepalives", "1");
    add(self, "keepalives_idle", "10");
    add(self, "keepalives_interval", "3");
    add(self, "keepalives_count", "3");
    add(self, "tcp_user_timeout", "15000");
    return 0;
}

void sp_conninfo_free(sp_conninfo_t *self)
{
    sp_buf_t options = {.data = self->options};
    sp_buf_free(&options);
    *self = (sp_conninfo_t){0};
}

void sp_conninfo_drop_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

int sp_conninfo_failed(const sp_dsn_t *dsn, const char *what, const char *words, sp_error_t *err)
{
    char text[900];
    snprintf(text, sizeof text, "%s", words != NULL ? words : "");
    sp_dsn_scrub(dsn, text);
    size_t n = strlen(text);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        text[--n] = 0;
    for (char *c = text; *c != 0; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    return sp_error_set(err, SP_E_PG_CONNECTION, "%s (%s@%s:%d/%s): %s", what, dsn->user, dsn->host,
                        dsn->port, dsn->database,
                        n > 0 ? text : "the server closed the connection");
}
