// The streaming replication protocol for logical slots: walsender commands, the copy-both stream, feedback.
#ifndef SP_PG_REPLICATION_H
#define SP_PG_REPLICATION_H

#include "common/pg/lsn.h"
#include "common/pg/pg.h"

// On a connection opened with options.replication. Slot creation waits for open writers: bounded by the query timeout.
// snapshot: name exported, valid until the next command on this connection or its end; NULL to export none.
int sp_repl_create_slot(sp_pg_t *self, const char *slot, bool temporary, bool export_snapshot,
                        sp_lsn_t *ret_consistent_point, char *snapshot, size_t snapshot_size,
                        sp_error_t *err);
int sp_repl_drop_slot(
    sp_pg_t *self, const char *slot,
    sp_error_t *err); // a missing slot is not an error; waits until it is free, bounded
int sp_repl_identify(sp_pg_t *self, char *system_id, size_t size, int *ret_timeline,
                     sp_lsn_t *ret_flush, sp_error_t *err);

// START_REPLICATION ... (proto_version 1, publication_names, binary, messages on).
int sp_repl_start(sp_pg_t *self, const char *slot, sp_lsn_t from, const char *publication,
                  bool binary, sp_error_t *err);
typedef enum { SP_REPL_NONE, SP_REPL_DATA, SP_REPL_KEEPALIVE, SP_REPL_END } sp_repl_kind_t;
typedef struct sp_repl_message {
    sp_repl_kind_t kind;  // NONE: nothing within the timeout
    const char *data;     // DATA: pgoutput message, borrowed until the next receive
    size_t len;           // bytes
    sp_lsn_t wal_start;   // DATA
    sp_lsn_t wal_end;     // server's end of WAL as sent
    int64_t server_us;    // server's send time, Unix microseconds
    bool reply_requested; // KEEPALIVE
} sp_repl_message_t;
int sp_repl_receive(sp_pg_t *self, int timeout_ms, sp_repl_message_t *ret_message, sp_error_t *err);
// Standby status update. flush: durable on the targets; the slot moves up to it.
int sp_repl_feedback(sp_pg_t *self, sp_lsn_t received, sp_lsn_t flushed, bool ask_reply,
                     sp_error_t *err);

#endif
