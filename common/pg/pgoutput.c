#include "common/pg/pgoutput.h"

#include <string.h>

// A cursor over the message: after the first short read everything is zero and `short_read` is set, so that parsers check once.
typedef struct reader {
    const unsigned char *at;  // next byte
    const unsigned char *end; // behind the last
    bool short_read;          // something did not fit
    bool no_memory;           // the arena was full
    sp_arena_t *arena;        // for arrays and strings
} reader_t;

static uint64_t read_uint(reader_t *r, size_t bytes)
{
    uint64_t value = 0;
    if ((size_t)(r->end - r->at) < bytes) {
        r->short_read = true;
        r->at = r->end;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | *r->at++;
    return value;
}

static const char *read_string(reader_t *r)
{
    const unsigned char *nul = r->at < r->end ? memchr(r->at, 0, (size_t)(r->end - r->at)) : NULL;
    if (nul == NULL) {
        r->short_read = true;
        r->at = r->end;
        return "";
    }
    const char *text = (const char *)r->at; // NUL-terminated inside the message
    r->at = nul + 1;
    return text;
}

static const char *read_bytes(reader_t *r, size_t len)
{
    if ((size_t)(r->end - r->at) < len) {
        r->short_read = true;
        r->at = r->end;
        return NULL;
    }
    const char *bytes = (const char *)r->at;
    r->at += len;
    return bytes;
}

// An array of n elements that take at least `least` bytes each on the wire: a count that cannot fit reserves nothing.
static void *read_array(reader_t *r, size_t n, size_t least, size_t size)
{
    if (r->short_read || n > (size_t)(r->end - r->at) / least) {
        r->short_read = true;
        return NULL;
    }
    void *array = sp_arena_alloc(r->arena, n > 0 ? n : 1, size);
    r->no_memory = r->no_memory || array == NULL;
    return array;
}

static void read_tuple(reader_t *r, sp_pgo_tuple_t *ret_tuple)
{
    size_t n = read_uint(r, 2);
    sp_pgo_datum_t *columns = read_array(r, n, 1, sizeof *columns);
    if (columns == NULL)
        return;
    for (size_t i = 0; i < n && !r->short_read; i++) {
        columns[i].kind = (char)read_uint(r, 1);
        if (columns[i].kind == 'n' || columns[i].kind == 'u')
            continue;
        uint64_t len = read_uint(r, 4);
        if ((columns[i].kind != 't' && columns[i].kind != 'b') || len > INT32_MAX) {
            r->short_read = true;
            return;
        }
        columns[i].data = read_bytes(r, len);
        columns[i].len = (int)len;
    }
    *ret_tuple = (sp_pgo_tuple_t){columns, (int)n};
}

static void read_relation(reader_t *r, sp_pgo_message_t *m)
{
    m->kind = SP_PGO_RELATION;
    m->relation = (uint32_t)read_uint(r, 4);
    m->schema = read_string(r);
    m->name = read_string(r);
    m->identity = (char)read_uint(r, 1);
    size_t n = read_uint(r, 2);
    m->columns = read_array(r, n, 10, sizeof *m->columns); // flags, empty name, type, modifier
    for (size_t i = 0; m->columns != NULL && i < n; i++) {
        m->columns[i].key = (read_uint(r, 1) & 1) != 0;
        m->columns[i].name = read_string(r);
        m->columns[i].type_oid = (uint32_t)read_uint(r, 4);
        m->columns[i].type_mod = (int32_t)read_uint(r, 4);
    }
    m->n_columns = (int)n;
    if (m->schema[0] == 0) // pgoutput's way to say pg_catalog
        m->schema = "pg_catalog";
}

static void read_row_change(reader_t *r, char type, sp_pgo_message_t *m)
{
    m->kind = type == 'I' ? SP_PGO_INSERT : type == 'U' ? SP_PGO_UPDATE : SP_PGO_DELETE;
    m->relation = (uint32_t)read_uint(r, 4);
    char part = (char)read_uint(r, 1);
    if (type != 'I' && (part == 'K' || part == 'O')) {
        m->old_kind = part;
        read_tuple(r, &m->old_row);
        if (type == 'D')
            return;
        part = (char)read_uint(r, 1);
    }
    if (type == 'D' || part != 'N') {
        r->short_read = true;
        return;
    }
    read_tuple(r, &m->new_row);
}

static void read_truncate(reader_t *r, sp_pgo_message_t *m)
{
    m->kind = SP_PGO_TRUNCATE;
    size_t n = read_uint(r, 4);
    read_uint(r, 1); // CASCADE, RESTART IDENTITY: nobody applies a TRUNCATE
    m->truncated = read_array(r, n, 4, sizeof *m->truncated);
    for (size_t i = 0; m->truncated != NULL && i < n; i++)
        m->truncated[i] = (uint32_t)read_uint(r, 4);
    m->n_truncated = (int)n;
}

static void read_transaction(reader_t *r, char type, sp_pgo_message_t *m)
{
    m->kind = type == 'B' ? SP_PGO_BEGIN : SP_PGO_COMMIT;
    if (type == 'C')
        read_uint(r, 1); // flags, unused
    m->final_lsn = read_uint(r, 8);
    if (type == 'C')
        m->end_lsn = read_uint(r, 8);
    m->commit_us = (int64_t)(read_uint(r, 8) + (uint64_t)SP_PG_EPOCH_US);
    if (type == 'B')
        m->xid = (uint32_t)read_uint(r, 4);
}

static void read_message(reader_t *r, sp_pgo_message_t *m)
{
    m->kind = SP_PGO_MESSAGE;
    m->transactional = (read_uint(r, 1) & 1) != 0;
    m->message_lsn = read_uint(r, 8);
    m->prefix = read_string(r);
    m->content_len = read_uint(r, 4);
    m->content = read_bytes(r, m->content_len);
}

int sp_pgo_parse(const void *data, size_t len, sp_arena_t *arena, sp_pgo_message_t *ret_message,
                 sp_error_t *err)
{
    reader_t r = {data, (const unsigned char *)data + len, false, false, arena};
    sp_pgo_message_t m = {0};
    if (len == 0)
        return sp_error_set(err, SP_E_MALFORMED, "pgoutput: empty message");
    char type = (char)read_uint(&r, 1);
    switch (type) {
    case 'B':
    case 'C':
        read_transaction(&r, type, &m);
        break;
    case 'O':
        m.kind = SP_PGO_ORIGIN;
        m.final_lsn = read_uint(&r, 8);
        m.name = read_string(&r);
        break;
    case 'R':
        read_relation(&r, &m);
        break;
    case 'Y':
        m.kind = SP_PGO_TYPE;
        m.relation = (uint32_t)read_uint(&r, 4);
        m.schema = read_string(&r);
        m.name = read_string(&r);
        break;
    case 'I':
    case 'U':
    case 'D':
        read_row_change(&r, type, &m);
        break;
    case 'T':
        read_truncate(&r, &m);
        break;
    case 'M':
        read_message(&r, &m);
        break;
    default:
        return sp_error_set(err, SP_E_UNSUPPORTED_VERSION, "pgoutput: unknown message type 0x%02x",
                            (unsigned char)type);
    }
    if (r.no_memory)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY,
                            "pgoutput: message of %zu bytes does not fit the arena", len);
    if (r.short_read || r.at != r.end)
        return sp_error_set(err, SP_E_MALFORMED, "pgoutput: message of type %c and %zu bytes is %s",
                            type, len,
                            r.short_read ? "cut or not of this form" : "followed by other bytes");
    *ret_message = m;
    return 0;
}
