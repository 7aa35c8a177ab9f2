// The DETAIL of SHP01, which our own guards and assert_owner wrote: flat JSON whose only free text, the keyspace, is escaped and last.
#include <string.h>

#include "common/owner/owner.h"

// What stands behind `"name":`, or NULL.
static const char *member(const char *detail, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = detail; (at = strchr(at, '"')) != NULL; at++) {
        if (strncmp(at + 1, name, n) != 0 || at[1 + n] != '"')
            continue;
        at += n + 2;
        at += strspn(at, " ");
        return *at == ':' ? at + 1 + strspn(at + 1, " ") : NULL;
    }
    return NULL;
}

static bool take_int(const char *at, int64_t *ret_value)
{
    return sp_str_to_int64((sp_str_t){at, strspn(at, "-0123456789")}, ret_value) == 0;
}

bool sp_refusal_parse(const char *detail, sp_refusal_t *ret_refusal)
{
    sp_refusal_t r = {0};
    if (detail == NULL || detail[0] != '{')
        return false;
    const char *reason = member(detail, "reason"), *hash = member(detail, "hash"),
               *version = member(detail, "ring_version");
    if (reason == NULL || version == NULL || !take_int(version, &r.ring_version))
        return false;
    r.in_transition = strncmp(reason, "\"in_transition\"", 15) == 0;
    if (!r.in_transition && strncmp(reason, "\"not_owner\"", 11) != 0)
        return false;
    if (hash != NULL && strncmp(hash, "null", 4) == 0)
        r.null_key = true;
    else if (hash != NULL && *hash == '"')
        r.has_hash = take_int(hash + 1, &r.hash);
    *ret_refusal = r;
    return true;
}
