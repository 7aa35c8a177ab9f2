// Log lines: made whole in memory, then written by one write().
#include "common/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"

static struct {
    char service[64];     // svc=
    char service_id[128]; // id=
    sp_log_level_t level; // least level written
    bool json;            // format
} config = {.level = SP_LOG_INFO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void sp_log_setup(const char *service, const char *service_id, const char *level,
                  const char *format)
{
    snprintf(config.service, sizeof config.service, "%s", service ? service : "");
    snprintf(config.service_id, sizeof config.service_id, "%s", service_id ? service_id : "");
    config.json = format && strcmp(format, "json") == 0;
    config.level = SP_LOG_INFO;
    for (int i = 0; level && i < 4; i++)
        if (strcmp(level, level_names[i]) == 0)
            config.level = (sp_log_level_t)i;
}

bool sp_log_enabled(sp_log_level_t level)
{
    return level >= config.level;
}

// A character behind ASCII, in valid UTF-8, that ends a line or that terminals obey: its code, else 0.
static unsigned control_at(const unsigned char *p)
{
    if (p[0] == 0xC2 && p[1] < 0xA0)
        return p[1]; // U+0080..U+009F
    if (p[0] == 0xE2 && p[1] == 0x80 && (p[2] == 0xA8 || p[2] == 0xA9))
        return 0x2000 + p[2] - 0x80; // line and paragraph separator
    return 0;
}

// Both formats escape alike, so that a line stays one line and valid UTF-8 whatever the value is.
static void add_quoted(sp_buf_t *out, const char *value)
{
    sp_buf_addc(out, '"');
    bool utf8 = sp_str_valid_utf8(sp_str(value));
    unsigned control;
    for (const unsigned char *p = (const unsigned char *)value; *p; p++) {
        if (*p == '"' || *p == '\\')
            sp_buf_printf(out, "\\%c", *p);
        else if (*p == '\n')
            sp_buf_addz(out, "\\n");
        else if (*p == '\t')
            sp_buf_addz(out, "\\t");
        else if (*p < 0x20 || *p == 0x7F || (*p >= 0x80 && !utf8))
            sp_buf_printf(out, "\\u%04x", *p);
        else if (*p >= 0x80 && (control = control_at(p)) != 0) {
            sp_buf_printf(out, "\\u%04x", control);
            p += *p == 0xC2 ? 1 : 2;
        } else
            sp_buf_addc(out, (char)*p);
    }
    sp_buf_addc(out, '"');
}

static bool plain(const char *value)
{
    if (!*value)
        return false;
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (*p <= ' ' || *p >= 0x7F || *p == '"' || *p == '\\' || *p == '=')
            return false;
    return true;
}

static void add_pair(sp_buf_t *out, const char *key, const char *value)
{
    if (!value)
        return;
    if (config.json) {
        sp_buf_addc(out, out->len ? ',' : '{');
        add_quoted(out, key);
        sp_buf_addc(out, ':');
        add_quoted(out, value);
        return;
    }
    if (out->len)
        sp_buf_addc(out, ' ');
    sp_buf_printf(out, "%s=", key);
    if (plain(value))
        sp_buf_addz(out, value);
    else
        add_quoted(out, value);
}

static void write_all(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; // nobody to tell
        data += n;
        len -= (size_t)n;
    }
}

void sp_log(sp_log_level_t level, const char *tag, ...)
{
    if (!sp_log_enabled(level))
        return;
    int64_t now = sp_clock_wall_ms();
    time_t seconds = (time_t)(now / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    char ts[64];
    size_t n = strftime(ts, sizeof ts, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(ts + n, sizeof ts - n, ".%03dZ", (int)(now % 1000));

    sp_buf_t line = {.limit = 256 * 1024};
    add_pair(&line, "ts", ts);
    add_pair(&line, "level", level_names[level]);
    add_pair(&line, "svc", config.service[0] ? config.service : NULL);
    add_pair(&line, "id", config.service_id[0] ? config.service_id : NULL);
    add_pair(&line, "tag", tag);
    va_list ap;
    va_start(ap, tag);
    for (const char *key; (key = va_arg(ap, const char *)) != NULL;)
        add_pair(&line, key, va_arg(ap, const char *));
    va_end(ap);
    sp_buf_addz(&line, config.json ? "}\n" : "\n");
    if (!line.failed)
        write_all(line.data, line.len);
    sp_buf_free(&line);
}

const char *sp_log_fmt(const char *fmt, ...)
{
    static _Thread_local char ring[16][512];
    static _Thread_local unsigned next;
    char *out = ring[next++ % 16];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, sizeof ring[0], fmt, ap);
    va_end(ap);
    return out;
}
