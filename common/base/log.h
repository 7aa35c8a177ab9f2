// Log: one line an event to stderr, `ts=... level=info svc=router id=router-1 tag=ROUTER-READY key=value ...` or the same as JSON.
#ifndef SP_BASE_LOG_H
#define SP_BASE_LOG_H

#include <stdbool.h>

typedef enum { SP_LOG_DEBUG, SP_LOG_INFO, SP_LOG_WARN, SP_LOG_ERROR } sp_log_level_t;

// Once, before threads start. format: "kv" or "json". Strings are copied.
void sp_log_setup(const char *service, const char *service_id, const char *level,
                  const char *format);
bool sp_log_enabled(sp_log_level_t level);
// Pairs of (key, value) C strings, ended by NULL: sp_log(SP_LOG_INFO, "RESHARD-FENCED", "job", id, "shard", s, NULL).
// Values are quoted and escaped as the format asks; a NULL value is left out. Thread-safe; one write() a line.
void sp_log(sp_log_level_t level, const char *tag, ...) __attribute__((sentinel));
// Scratch text for a value: valid until the same thread has called it 16 more times.
const char *sp_log_fmt(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
