#include "services/resharder/pure_follow.h"

bool follow_has_applied(sp_lsn_t final_lsn, sp_lsn_t progress)
{
    return final_lsn < progress;
}

bool follow_in_copy(sp_lsn_t final_lsn, sp_lsn_t start_lsn)
{
    return final_lsn < start_lsn;
}

int follow_owner(const sp_arcs_t *bounds, size_t n, int64_t hash)
{
    for (size_t i = 0; i < n; i++)
        if (sp_arcs_contains(bounds[i], hash))
            return (int)i;
    return FOLLOW_NOBODY;
}

follow_action_t follow_update_action(int from, int to)
{
    if (from == to)
        return from == FOLLOW_NOBODY ? FOLLOW_DROP : FOLLOW_UPDATE;
    if (from == FOLLOW_NOBODY)
        return FOLLOW_INSERT;
    return to == FOLLOW_NOBODY ? FOLLOW_DELETE : FOLLOW_MOVE;
}

// The maths runs on 128 bits: start, last and bounds may lie at both ends of int64.
int follow_sequence_next(const follow_sequence_t *sequence, int64_t stride, int64_t ordinal,
                         int64_t headroom, int64_t *ret_increment, int64_t *ret_next,
                         sp_error_t *err)
{
    if (sequence->increment == 0 || stride < 1 || ordinal < 0 || headroom < 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a sequence's increment, stride, ordinal or headroom is out of range");
    __int128 step = sequence->increment;
    if (sequence->increment % stride == 0)
        step /= stride; // the source has its own residue already
    bool down = step < 0;
    __int128 size = down ? -step : step; // of one step
    // Steps from the start, counted in the direction of the sequence.
    __int128 way = (__int128)sequence->last - sequence->start;
    way = down ? -way : way;
    __int128 least = 0;
    if (sequence->called) {
        __int128 room = down ? (__int128)sequence->last - sequence->min
                             : (__int128)sequence->max - sequence->last;
        __int128 ahead = (__int128)headroom * size;
        if (ahead > room / 16) // short sequences: do not eat them up
            ahead = room / 16;
        __int128 beyond = way + ahead; // first value behind it
        // A last value below the start (after a RESTART) counts from the start.
        least = beyond < 0 ? 0 : beyond / size + 1;
    }
    __int128 residue = ordinal % stride;
    __int128 k = least + ((residue - least % stride) + stride) % stride;
    __int128 next = (__int128)sequence->start + k * step;
    __int128 increment = step * stride;
    if (next > sequence->max || next < sequence->min || increment > INT64_MAX ||
        increment < INT64_MIN)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "a sequence has no values left for residue %lld of stride %lld",
                            (long long)(ordinal % stride), (long long)stride);
    *ret_increment = (int64_t)increment;
    *ret_next = (int64_t)next;
    return 0;
}
