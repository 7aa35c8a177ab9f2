// DSN parser of our own: libpq's accepts service files, options and host lists, and repeats passwords in its errors. Errors here name
// the parameter, never its value.
#include "common/pg/dsn.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/base/buf.h"

#define DSN_MAX 4000 // bytes; fits the catalog's field once it is sealed with room to spare

static int bad(sp_error_t *err, const char *what)
{
    return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                        "the connection string is not usable: %s; wanted "
                        "postgresql://user:password@host:port/database",
                        what);
}

static int bad_name(sp_error_t *err, const char *what, const char *name)
{
    // The name may be a piece of a password that was not percent-encoded: only known words are repeated.
    static const char *const known[] = {"service",         "servicefile",
                                        "passfile",        "options",
                                        "hostaddr",        "target_session_attrs",
                                        "replication",     "fallback_application_name",
                                        "client_encoding", "channel_binding",
                                        "gssencmode",      "krbsrvname",
                                        "requirepeer",     "load_balance_hosts",
                                        "require_auth",    "sslcrl",
                                        "sslpassword",     NULL};
    for (size_t i = 0; known[i] != NULL; i++)
        if (strcmp(known[i], name) == 0)
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "the connection string is not usable: parameter %s is %s", name,
                                what);
    return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                        "the connection string is not usable: it has a parameter that is %s", what);
}

static bool one_of(const char *value, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(value, *list) == 0)
            return true;
    return false;
}

static int set_port(const char *value, sp_dsn_t *dsn, sp_error_t *err)
{
    int64_t port = 0;
    if (sp_str_to_int64(sp_str(value), &port) != 0 || port < 1 || port > 65535)
        return bad(err, "the port is not a number from 1 to 65535");
    dsn->port = (int)port;
    return 0;
}

static int set_sslmode(const char *value, sp_dsn_t *dsn, sp_error_t *err)
{
    static const char *const modes[] = {"disable",   "allow",       "prefer", "require",
                                        "verify-ca", "verify-full", NULL};
    if (!one_of(value, modes))
        return bad(err,
                   "sslmode is none of disable, allow, prefer, require, verify-ca, verify-full");
    dsn->sslmode = value;
    return 0;
}

// One decoded parameter; value lives in the arena.
static int set_parameter(const char *name, const char *value, sp_dsn_t *dsn, sp_error_t *err)
{
    static const char *const ignored[] = {"connect_timeout",
                                          "keepalives",
                                          "keepalives_idle",
                                          "keepalives_interval",
                                          "keepalives_count",
                                          "tcp_user_timeout",
                                          NULL};
    const struct {
        const char *name;  // parameter
        const char **into; // member
    } members[] = {{"host", &dsn->host},
                   {"dbname", &dsn->database},
                   {"user", &dsn->user},
                   {"password", &dsn->password},
                   {"sslrootcert", &dsn->sslrootcert},
                   {"sslcert", &dsn->sslcert},
                   {"sslkey", &dsn->sslkey},
                   {"application_name", &dsn->application_name}};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if (strcmp(members[i].name, name) == 0) {
            *members[i].into = value;
            return 0;
        }
    }
    if (strcmp(name, "port") == 0)
        return set_port(value, dsn, err);
    if (strcmp(name, "sslmode") == 0)
        return set_sslmode(value, dsn, err);
    if (one_of(name, ignored)) // known and harmless; the services have their own values
        return 0;
    return bad_name(err, "not allowed", name);
}

// ---- URI

static int percent_decode(sp_str_t in, sp_arena_t *arena, const char **ret_out, sp_error_t *err)
{
    char *out = sp_arena_alloc(arena, in.len + 1, 1);
    if (out == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the connection string");
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        if (in.ptr[i] != '%') {
            out[n++] = in.ptr[i];
            continue;
        }
        int high = i + 1 < in.len ? sp_str_hex_digit(in.ptr[i + 1]) : -1,
            low = i + 2 < in.len ? sp_str_hex_digit(in.ptr[i + 2]) : -1;
        if (high < 0 || low < 0 || (high == 0 && low == 0))
            return bad(err, "a % is not followed by two hexadecimal digits (write %25 for the "
                            "character itself)");
        out[n++] = (char)(high * 16 + low);
        i += 2;
    }
    if (!sp_str_valid_utf8((sp_str_t){out, n}))
        return bad(err, "it is not valid UTF-8");
    *ret_out = out;
    return 0;
}

// Cuts s at the first c: the piece before it is returned, s becomes the rest (absent when c is not there).
static sp_str_t cut(sp_str_t *s, char c)
{
    sp_str_t piece = *s;
    const char *at = s->len > 0 ? memchr(s->ptr, c, s->len) : NULL;
    if (at == NULL) {
        *s = (sp_str_t){NULL, 0};
        return piece;
    }
    piece.len = (size_t)(at - s->ptr);
    *s = (sp_str_t){at + 1, s->len - piece.len - 1};
    return piece;
}

static int parse_host_port(sp_str_t place, sp_arena_t *arena, sp_dsn_t *dsn, sp_error_t *err)
{
    sp_str_t host, port = {NULL, 0};
    if (place.len > 0 && place.ptr[0] == '[') { // [IPv6]:port
        sp_str_t rest = {place.ptr + 1, place.len - 1};
        host = cut(&rest, ']');
        if (rest.ptr == NULL || (rest.len > 0 && rest.ptr[0] != ':'))
            return bad(err, "the brackets of the IPv6 address are not closed");
        if (rest.len > 0)
            port = (sp_str_t){rest.ptr + 1, rest.len - 1};
    } else {
        port = place;
        host = cut(&port, ':');
    }
    const char *text = NULL;
    if (host.len > 0) {
        int rc = percent_decode(host, arena, &dsn->host, err);
        if (rc != 0)
            return rc;
    }
    if (port.len == 0)
        return 0;
    if (memchr(port.ptr, ',', port.len) != NULL)
        return bad(err, "it names several hosts");
    text = sp_arena_cstr(arena, port);
    return text == NULL
               ? sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the connection string")
               : set_port(text, dsn, err);
}

static int parse_query(sp_str_t query, sp_arena_t *arena, sp_dsn_t *dsn, sp_error_t *err)
{
    while (query.len > 0) {
        sp_str_t value = cut(&query, '&');
        sp_str_t name = cut(&value, '=');
        const char *name_z = NULL, *value_z = NULL;
        if (value.ptr == NULL)
            return bad(err, "a parameter behind ? has no value");
        int rc = percent_decode(name, arena, &name_z, err);
        if (rc == 0)
            rc = percent_decode(value, arena, &value_z, err);
        if (rc == 0)
            rc = set_parameter(name_z, value_z, dsn, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int parse_uri(sp_str_t rest, sp_arena_t *arena, sp_dsn_t *dsn, sp_error_t *err)
{
    sp_str_t query = rest;
    rest = cut(&query, '?');
    sp_str_t path = rest;
    rest = cut(
        &path,
        '/'); // a password with a bare / ends up here, as in libpq: the host is then missing or wrong
    // The last @ ends the user information.
    const char *at = rest.len > 0 ? memrchr(rest.ptr, '@', rest.len) : NULL;
    if (at != NULL) {
        sp_str_t password = {rest.ptr, (size_t)(at - rest.ptr)};
        rest = (sp_str_t){at + 1, rest.len - password.len - 1};
        sp_str_t user = cut(&password, ':');
        int rc = percent_decode(user, arena, &dsn->user, err);
        if (rc == 0 && password.ptr != NULL)
            rc = percent_decode(password, arena, &dsn->password, err);
        if (rc != 0)
            return rc;
    }
    int rc = parse_host_port(rest, arena, dsn, err);
    if (rc == 0 && path.len > 0)
        rc = percent_decode(path, arena, &dsn->database, err);
    return rc == 0 ? parse_query(query, arena, dsn, err) : rc;
}

// ---- key=value

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

// A value at text[*at]: bare up to a space, or in single quotes; \x stands for x.
static int keyword_value(sp_str_t text, size_t *at, sp_arena_t *arena, const char **ret_value,
                         sp_error_t *err)
{
    char *out = sp_arena_alloc(arena, text.len - *at + 1, 1);
    size_t n = 0, i = *at;
    if (out == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the connection string");
    bool quoted = i < text.len && text.ptr[i] == '\'';
    for (i += quoted; i < text.len; i++) {
        char c = text.ptr[i];
        if (quoted ? c == '\'' : is_space(c))
            break;
        if (c == '\\' && i + 1 < text.len)
            c = text.ptr[++i];
        out[n++] = c;
    }
    if (quoted && i >= text.len)
        return bad(err, "a quote is not closed");
    *at = i + quoted;
    *ret_value = out;
    return 0;
}

static int parse_keywords(sp_str_t text, sp_arena_t *arena, sp_dsn_t *dsn, sp_error_t *err)
{
    size_t at = 0;
    for (;;) {
        while (at < text.len && is_space(text.ptr[at]))
            at++;
        if (at >= text.len)
            return 0;
        size_t start = at;
        while (at < text.len && text.ptr[at] != '=' && !is_space(text.ptr[at]))
            at++;
        const char *name = sp_arena_cstr(arena, (sp_str_t){text.ptr + start, at - start}),
                   *value = NULL;
        while (at < text.len && is_space(text.ptr[at]))
            at++;
        if (at >= text.len || text.ptr[at] != '=')
            return bad(err, "a parameter has no value");
        at++;
        while (at < text.len && is_space(text.ptr[at]))
            at++;
        if (name == NULL)
            return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the connection string");
        int rc = keyword_value(text, &at, arena, &value, err);
        if (rc == 0)
            rc = set_parameter(name, value, dsn, err);
        if (rc != 0)
            return rc;
    }
}

int sp_dsn_parse(sp_str_t text, sp_arena_t *arena, sp_dsn_t *ret_dsn, sp_error_t *err)
{
    sp_dsn_t dsn = {.port = 5432};
    int rc;
    if (text.ptr == NULL || text.len == 0)
        return bad(err, "it is empty");
    if (text.len > DSN_MAX)
        return bad(err, "it is too long");
    if (!sp_str_valid_utf8(text))
        return bad(err, "it is not valid UTF-8");
    if (sp_str_starts(text, "postgresql://"))
        rc = parse_uri((sp_str_t){text.ptr + 13, text.len - 13}, arena, &dsn, err);
    else if (sp_str_starts(text, "postgres://"))
        rc = parse_uri((sp_str_t){text.ptr + 11, text.len - 11}, arena, &dsn, err);
    else
        rc = parse_keywords(text, arena, &dsn, err);
    if (rc != 0)
        return rc;
    if (dsn.host == NULL || dsn.host[0] == 0)
        return bad(err, "the host is missing");
    if (strchr(dsn.host, ',') != NULL)
        return bad(err, "it names several hosts");
    if (dsn.host[0] == '/' || dsn.host[0] == '@') // every service must reach it, from any machine
        return bad(err, "the host is a socket path; a name or an address is needed");
    if (dsn.database == NULL || dsn.database[0] == 0)
        return bad(err, "the database is missing");
    if (dsn.user == NULL || dsn.user[0] == 0)
        return bad(err, "the user is missing");
    // The catalog keeps it as a URI, in which most bytes take three.
    const char *uri = sp_dsn_uri(&dsn, arena);
    if (uri == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for a connection string");
    if (strlen(uri) > DSN_MAX)
        return bad(err, "it is too long");
    *ret_dsn = dsn;
    return 0;
}

bool sp_dsn_copy(const sp_dsn_t *dsn, sp_arena_t *arena, sp_dsn_t *ret_copy)
{
    sp_dsn_t copy = *dsn;
    const char **const members[] = {&copy.host,     &copy.database, &copy.user,
                                    &copy.password, &copy.sslmode,  &copy.sslrootcert,
                                    &copy.sslcert,  &copy.sslkey,   &copy.application_name};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if (*members[i] != NULL && (*members[i] = sp_arena_strz(arena, *members[i])) == NULL)
            return false;
    *ret_copy = copy;
    return true;
}

// ---- printing

#define UNRESERVED "-._~" // besides letters and digits (RFC 3986)

// `bare`: what stays as it is besides letters and digits.
static void add_encoded(sp_buf_t *out, const char *text, const char *bare)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != 0; c++) {
        if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
            strchr(bare, *c) != NULL)
            sp_buf_addc(out, (char)*c);
        else
            sp_buf_printf(out, "%%%02X", *c);
    }
}

static const char *print(const sp_dsn_t *dsn, bool secrets, sp_arena_t *arena)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_addz(&out, "postgresql://");
    add_encoded(&out, dsn->user, UNRESERVED);
    if (secrets && dsn->password != NULL) {
        sp_buf_addc(&out, ':');
        add_encoded(&out, dsn->password, UNRESERVED);
    }
    bool v6 = strchr(dsn->host, ':') != NULL;
    sp_buf_addz(&out, v6 ? "@[" : "@");
    add_encoded(&out, dsn->host, UNRESERVED ":");
    sp_buf_printf(&out, "%s:%d/", v6 ? "]" : "", dsn->port);
    add_encoded(&out, dsn->database, UNRESERVED);
    const struct {
        const char *name, *value; // query parameter
    } rest[] = {{"sslmode", dsn->sslmode},
                {"sslrootcert", dsn->sslrootcert},
                {"sslcert", dsn->sslcert},
                {"sslkey", dsn->sslkey},
                {"application_name", dsn->application_name}};
    char separator = '?';
    for (size_t i = 0; secrets && i < sizeof rest / sizeof rest[0]; i++) {
        if (rest[i].value == NULL)
            continue;
        sp_buf_printf(&out, "%c%s=", separator, rest[i].name);
        add_encoded(&out, rest[i].value, UNRESERVED);
        separator = '&';
    }
    const char *text = out.failed ? NULL : sp_arena_strz(arena, sp_buf_cstr(&out));
    sp_buf_free(&out);
    return text;
}

const char *sp_dsn_redact(const sp_dsn_t *dsn, sp_arena_t *arena)
{
    const char *text = print(dsn, false, arena);
    return text != NULL ? text : "postgresql://?";
}

const char *sp_dsn_uri(const sp_dsn_t *dsn, sp_arena_t *arena)
{
    return print(dsn, true, arena);
}

void sp_dsn_scrub(const sp_dsn_t *dsn, char *text)
{
    size_t n = dsn->password != NULL ? strlen(dsn->password) : 0;
    if (n == 0)
        return;
    for (char *at = text; (at = strstr(at, dsn->password)) != NULL;) {
        size_t stars =
            n < 3 ? n : 3; // never longer than what was there, so that the text still fits
        memset(at, '*', stars);
        memmove(at + stars, at + n, strlen(at + n) + 1);
        at += stars;
    }
}
