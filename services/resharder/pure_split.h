// Splitting one COPY stream over several targets: each row's first column is its key's hash, which says where the rest of its bytes go.
// Pure: bytes in, bytes out through a callback, any cut of the input. No row is kept, so memory does not grow with it.
#ifndef SP_RESHARDER_PURE_SPLIT_H
#define SP_RESHARDER_PURE_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/error.h"
#include "common/ring/arcs.h"

// Who gets a hash: all targets' arcs in one sorted list.
typedef struct split_route {
    int64_t *starts; // first hash of each piece, ascending; starts[0] is INT64_MIN
    int *owners;     // target's index, or -1: it stays where it is
    size_t n;        // pieces
} split_route_t;

// arcs: one a target. SP_E_INVALID_ARGUMENT when two overlap or one is not valid, SP_E_OUT_OF_MEMORY.
int split_route_make(split_route_t *ret_route, const sp_arcs_t *arcs, size_t n, sp_arena_t *arena,
                     sp_error_t *err);
int split_route_find(const split_route_t *self, int64_t hash);

// Takes bytes for a target: whole rows in the end, but cut anywhere. data is borrowed for the call. 0, or an error that ends the split.
typedef int(split_put_fn)(void *arg, size_t target, const void *data, size_t len, sp_error_t *err);

typedef struct split {
    const split_route_t *route; // borrowed
    split_put_fn *put;          // where bytes go
    void *arg;                  // its argument
    int64_t *rows;              // rows a target, borrowed
    int64_t skipped;            // rows of no target
    int state;                  // what the next byte is
    int target;                 // of the current row, or -1
    int fields;                 // binary: fields of the current row that are still to come
    uint64_t
        left; // bytes of the current field (or of the header's extension) that are still to come
    unsigned char part[32]; // a number or prefix that a cut divided
    size_t part_len;        // bytes in part
} split_t;

// The stream of `COPY (SELECT hash, ...) TO STDOUT`, binary or text. rows: one counter a target, zeroed by the caller.
void split_start(split_t *self, bool binary, const split_route_t *route, int64_t *rows,
                 split_put_fn *put, void *arg);
// SP_E_MALFORMED for bytes that are no such stream; a NULL hash is SP_E_INVALID_ARGUMENT; or what put returned.
int split_feed(split_t *self, const void *data, size_t len, sp_error_t *err);
// After the last byte: SP_E_MALFORMED when the stream was cut short.
int split_end(const split_t *self, sp_error_t *err);

// What every target's binary stream starts and ends with (text has neither).
extern const unsigned char split_binary_header[19];
extern const unsigned char split_binary_trailer[2];

#endif
