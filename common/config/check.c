// Checks of single values: pure but for the look at a secret file's mode.
#include "common/config/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/str.h"

bool sp_config_split_address(const char *address, char *host, size_t host_size, int *ret_port)
{
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || (size_t)(colon - address) >= host_size)
        return false;
    size_t len = (size_t)(colon - address);
    bool v6 = address[0] == '[';
    if (v6 ? address[len - 1] != ']' : memchr(address, ':', len) != NULL)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)address[i] <= ' ' || address[i] == '/' || address[i] == '@')
            return false;
    int64_t port = -1;
    if (strcmp(colon + 1, "*") != 0 &&
        (sp_str_to_int64(sp_str(colon + 1), &port) || port < 0 || port > 65535))
        return false;
    memcpy(host, address, len);
    host[len] = '\0';
    *ret_port = (int)port;
    return true;
}

static const char *check_endpoint(const char *text, char *why, size_t why_size)
{
    char host[256];
    int port;
    if (strncmp(text, "ipc://", 6) == 0 || strncmp(text, "inproc://", 9) == 0)
        return NULL;
    if (strncmp(text, "tcp://", 6) == 0 &&
        sp_config_split_address(text + 6, host, sizeof host, &port))
        return NULL;
    snprintf(why, why_size,
             "\"%s\" is not an endpoint; write tcp://host:port with a port from 0 to 65535", text);
    return why;
}

static const char *check_address(const char *text, char *why, size_t why_size)
{
    char host[256];
    int port;
    if (!*text || sp_config_split_address(text, host, sizeof host, &port))
        return NULL;
    snprintf(why, why_size, "\"%s\" is not an address; write host:port with a port from 0 to 65535",
             text);
    return why;
}

static const char *check_secret(const char *path, char *why, size_t why_size)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        snprintf(why, why_size, "%s: %s%s", path, strerror(errno),
                 errno == ENOENT ? "; make one with: openssl rand -hex 32" : "");
    } else if (!S_ISREG(st.st_mode)) {
        snprintf(why, why_size, "%s is not a regular file", path);
    } else if (st.st_mode & 077) {
        snprintf(why, why_size, "%s has mode %03o, so others may read it; run chmod 600 on it",
                 path, (unsigned)(st.st_mode & 0777));
    } else {
        return NULL;
    }
    return why;
}

static bool in_choices(const char *choices, const char *text)
{
    size_t len = strlen(text);
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, text, n) == 0)
            return true;
        p += n;
        if (*p)
            p++;
    }
    return false;
}

const char *sp_config_check_text(const sp_option_t *row, const char *text, char *why,
                                 size_t why_size)
{
    size_t len = strlen(text);
    size_t max = row->max > 0 ? (size_t)row->max : 4096;
    if (len > max || len < (size_t)(row->min > 0 ? row->min : 0)) {
        snprintf(why, why_size, "it has %zu bytes; %lld to %zu are allowed", len,
                 (long long)row->min, max);
        return why;
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= ' ' && text[i] != 0x7F)
            continue;
        snprintf(why, why_size, "it has a control character at byte %zu", i + 1);
        return why;
    }
    if (row->choices && !in_choices(row->choices, text)) {
        snprintf(why, why_size, "\"%s\" is none of %s", text, row->choices);
        return why;
    }
    switch (row->type) {
    case SP_OPT_ENDPOINT:
        return check_endpoint(text, why, why_size);
    case SP_OPT_ADDRESS:
        return check_address(text, why, why_size);
    case SP_OPT_SECRET:
        return check_secret(text, why, why_size);
    default:
        return NULL;
    }
}

const char *sp_config_check_int(const sp_option_t *row, int64_t value, char *why, size_t why_size)
{
    bool ranged = row->min != 0 || row->max != 0;
    if (!ranged || (value >= row->min && value <= row->max))
        return NULL;
    snprintf(why, why_size, "%lld is out of range; %lld to %lld are allowed", (long long)value,
             (long long)row->min, (long long)row->max);
    return why;
}
