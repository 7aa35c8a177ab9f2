// The source's schema as pg_dump sees it, cut into its entries, so that each can be left out, made alone, or told to be there already.
// Nothing of it touches a disk. Blocks (actors).
#ifndef SP_RESHARDER_DUMP_H
#define SP_RESHARDER_DUMP_H

#include "services/resharder/pure_dump.h"
#include "services/resharder/task.h"

typedef struct dump {
    dump_section_t pre;  // pre-data
    dump_section_t post; // post-data
    sp_arena_t *arena;   // owns all of it
    char key[128];       // which job, attempt and source it is of
    int references;      // under the lock of dump.c
} dump_t;

// Folder of pg_dump and pg_restore; "": the newest of /usr/lib/postgresql, else PATH. Once, before threads start.
void dump_setup(const char *pg_bin);
// The dump of the task's source, the last one made for this job and attempt again. Errors: unavailable with pg_dump's words (scrubbed),
// cancelled, pg_connection. Give it back with dump_release.
int dump_get(task_t *task, const dump_t **ret_dump, sp_error_t *err);
// fresh: never one that was made before.
int dump_get_fresh(task_t *task, const dump_t **ret_dump, sp_error_t *err);
void dump_release(const dump_t **dump_p); // NULL inside is fine
void dump_forget(void);                   // at the end of the process

#endif
