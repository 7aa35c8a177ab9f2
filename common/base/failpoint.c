// Failpoints: the variable is parsed once; after that a passage without failpoints costs one load.
#include "common/base/failpoint.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/str.h"

enum { MAX_POINTS = 64, NAME_MAX_LEN = 64, PATH_MAX_LEN = 256, HOLD_POLL_MS = 10 };

typedef enum { ACT_KILL, ACT_STOP, ACT_ERROR, ACT_SLEEP, ACT_HOLD } action_t;

typedef struct point {
    char name[NAME_MAX_LEN]; // name of the place
    action_t action;         // what happens
    int64_t sleep_ms;        // ACT_SLEEP
    char path[PATH_MAX_LEN]; // ACT_HOLD
    int64_t times;           // at most so often, 0 always
    int64_t from;            // first passage that counts, from 1
    atomic_llong passed;     // passages so far
} point_t;

static point_t points[MAX_POINTS];
static size_t points_n;
static atomic_bool armed;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static sp_error_t setup_error;
static const char *const action_names[] = {"kill", "stop", "error", "sleep", "hold"};
enum { ACTIONS_N = sizeof action_names / sizeof *action_names };

static bool take_number(const char **p, const char *end, int64_t *ret)
{
    const char *q = *p;
    while (q < end && *q >= '0' && *q <= '9')
        q++;
    if (sp_str_to_int64((sp_str_t){*p, (size_t)(q - *p)}, ret) != SP_OK)
        return false;
    *p = q;
    return true;
}

// `=path`, to the end.
static bool parse_hold(const char *p, const char *end, point_t *pt)
{
    if (end - p < 2 || end - p > PATH_MAX_LEN || p[0] != '=' || p[1] != '/')
        return false;
    memcpy(pt->path, p + 1, (size_t)(end - p - 1));
    return true;
}

// One `name:action[=ms][*n][@k]`, or `name:hold=path`.
static bool parse_point(const char *p, const char *end, point_t *pt)
{
    const char *colon = memchr(p, ':', (size_t)(end - p));
    if (!colon || colon == p || colon - p >= NAME_MAX_LEN)
        return false;
    memcpy(pt->name, p, (size_t)(colon - p));
    p = colon + 1;
    size_t a = 0;
    while (a < ACTIONS_N && !sp_str_starts((sp_str_t){p, (size_t)(end - p)}, action_names[a]))
        a++;
    if (a == ACTIONS_N)
        return false;
    pt->action = (action_t)a;
    pt->from = 1;
    p += strlen(action_names[a]);
    if (pt->action == ACT_HOLD)
        return parse_hold(p, end, pt);
    if (pt->action == ACT_SLEEP) {
        if (p == end || *p++ != '=' || !take_number(&p, end, &pt->sleep_ms))
            return false;
    }
    while (p < end) {
        char c = *p++;
        if (c == '*' && take_number(&p, end, &pt->times))
            continue;
        if (c == '@' && take_number(&p, end, &pt->from))
            continue;
        return false;
    }
    return true;
}

static void parse(void)
{
    const char *p = getenv("SHARDPLANE_FAILPOINTS");
    while (p && *p) {
        size_t len = strcspn(p, ";,");
        while (len && *p == ' ')
            p++, len--;
        if (len) {
            if (points_n == MAX_POINTS || !parse_point(p, p + len, &points[points_n])) {
                sp_error_set(&setup_error, SP_E_CONFIG,
                             "SHARDPLANE_FAILPOINTS: cannot read \"%.*s\"; write name:kill, "
                             "name:stop, name:error or name:sleep=<ms>, then *<times> or "
                             "@<from>, or name:hold=</path/of/a/file>, separated by ;",
                             (int)len, p);
                return;
            }
            points_n++;
        }
        p += len;
        if (*p)
            p++;
    }
    atomic_store(&armed, points_n > 0);
}

int sp_failpoint_setup(sp_error_t *err)
{
    pthread_once(&once, parse);
    if (setup_error.code && err)
        *err = setup_error;
    return setup_error.code;
}

static int act(point_t *pt, sp_error_t *err)
{
    sp_log(SP_LOG_WARN, "FAILPOINT", "point", pt->name, "action", action_names[pt->action], NULL);
    switch (pt->action) {
    case ACT_KILL:
        kill(getpid(), SIGKILL);
        break;
    case ACT_STOP:
        kill(getpid(), SIGSTOP);
        break;
    case ACT_SLEEP:
        sp_clock_sleep_ms(pt->sleep_ms);
        break;
    case ACT_HOLD:
        while (access(pt->path, F_OK) == 0)
            sp_clock_sleep_ms(HOLD_POLL_MS);
        break;
    case ACT_ERROR:
        return sp_error_set(err, SP_E_FAILPOINT, "failpoint %s", pt->name);
    }
    return SP_OK;
}

int sp_failpoint(const char *name, sp_error_t *err)
{
    pthread_once(&once, parse);
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return SP_OK;
    for (size_t i = 0; i < points_n; i++) {
        point_t *pt = &points[i];
        if (strcmp(pt->name, name) != 0)
            continue;
        int64_t passage = atomic_fetch_add(&pt->passed, 1) + 1;
        if (passage < pt->from || (pt->times && passage >= pt->from + pt->times))
            continue;
        int rc = act(pt, err);
        if (rc)
            return rc;
    }
    return SP_OK;
}
