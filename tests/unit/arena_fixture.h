// Set-up of tests that decode or compute into an arena: a fresh one, and a clear error, for each test.
#ifndef SP_TEST_ARENA_FIXTURE_H
#define SP_TEST_ARENA_FIXTURE_H

#include "common/base/arena.h"
#include "common/base/error.h"

static sp_arena_t *arena;
static sp_error_t err;

static int setup(void **state)
{
    (void)state;
    arena = sp_arena_new(0);
    err = (sp_error_t){0};
    return arena == NULL;
}

static int teardown(void **state)
{
    (void)state;
    sp_arena_destroy(&arena);
    return 0;
}

#endif
