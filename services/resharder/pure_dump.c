#include "services/resharder/pure_dump.h"

#include <stdlib.h>
#include <string.h>

// A script's entry starts so (pg_backup_archiver.c, _printTocEntry, verbose):
//   --
//   -- TOC entry 215 (class 1259 OID 16389)
//   -- Dependencies: 6 214
//   -- Name: ...
static const char mark[] = "\n--\n-- TOC entry ";

// Next place at or behind `at` where an entry starts, or NULL. The three numbers are read.
static char *next_mark(char *at, dump_entry_t *ret_entry, char **ret_end)
{
    while ((at = strstr(at, mark)) != NULL) {
        char *p = at + sizeof mark - 1, *end;
        long id = strtol(p, &end, 10);
        if (end > p && strncmp(end, " (class ", 8) == 0) {
            unsigned long class_oid = strtoul(end + 8, &p, 10);
            if (strncmp(p, " OID ", 5) == 0) {
                unsigned long oid = strtoul(p + 5, &end, 10);
                if (end[0] == ')' && end[1] == '\n') {
                    *ret_entry = (dump_entry_t){.id = (int)id,
                                                .class_oid = (uint32_t)class_oid,
                                                .oid = (uint32_t)oid};
                    *ret_end = end + 2;
                    return at;
                }
            }
        }
        at += sizeof mark - 1;
    }
    return NULL;
}

static int read_deps(char **at, sp_arena_t *arena, dump_entry_t *entry, sp_error_t *err)
{
    static const char label[] = "-- Dependencies:";
    if (strncmp(*at, label, sizeof label - 1) != 0)
        return 0;
    char *p = *at + sizeof label - 1, *line_end = strchr(p, '\n');
    size_t n = 0;
    if (line_end == NULL)
        return sp_error_set(err, SP_E_MALFORMED, "pg_restore's script ends within an entry");
    for (char *q = p; q < line_end; q++)
        n += *q == ' ';
    int *deps = sp_arena_alloc(arena, n + 1, sizeof *deps);
    if (deps == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's dump");
    while (entry->n_deps < n && *p == ' ')
        deps[entry->n_deps++] = (int)strtol(p, &p, 10);
    entry->deps = deps;
    *at = line_end + 1;
    return 0;
}

// From 15.14 on scripts are wrapped in psql's \restrict KEY ... \unrestrict KEY, which are no SQL.
static void blank_restrict(char *text)
{
    char *begin = strstr(text, "\n\\restrict "), *first = strstr(text, mark);
    if (begin == NULL || (first != NULL && first < begin))
        return;
    char *key = begin + 11, *end = strchr(key, '\n');
    static const char tail[] = "\n\\unrestrict ";
    size_t len = end != NULL ? (size_t)(end - key) : 0;
    if (len == 0 || len > 100)
        return;
    memset(begin + 1, ' ', (size_t)(end - begin) - 1);
    // The key itself was blanked: the last line that starts so is the one, for nothing follows it.
    char *last = NULL;
    for (char *p = end; (p = strstr(p, tail)) != NULL; p++)
        last = p;
    if (last != NULL)
        for (char *p = last + 1; *p != '\0' && *p != '\n'; p++)
            *p = ' ';
}

int dump_cut(char *text, sp_arena_t *arena, dump_section_t *ret_section, sp_error_t *err)
{
    dump_section_t section = {.prelude = text};
    dump_entry_t entry;
    char *end;
    blank_restrict(text);
    for (char *at = text; next_mark(at, &entry, &end) != NULL; at = end)
        section.n++;
    section.entries = sp_arena_alloc(arena, section.n + 1, sizeof *section.entries);
    if (section.entries == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's dump");
    size_t i = 0;
    for (char *from = text, *at; (at = next_mark(from, &entry, &end)) != NULL; from = end) {
        *at = '\0'; // ends what stood before
        int rc = read_deps(&end, arena, &entry, err);
        if (rc != 0)
            return rc;
        // `-- Name: ...` and the closing `--` are comments; a name cannot end the comment, pg_dump replaces its line feeds.
        entry.sql = end;
        section.entries[i++] = entry;
    }
    *ret_section = section;
    return 0;
}

// ---- the list

static int compare_ids(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

// Lines are `215; 1259 16389 TABLE public t owner`; those that start with a semicolon are comments. ids: room for one a line.
static size_t read_list(const char *list, int *ids)
{
    size_t n = 0;
    for (const char *line = list; line != NULL && *line != '\0';) {
        char *end;
        long id = strtol(line, &end, 10);
        if (end > line && *end == ';')
            ids[n++] = (int)id;
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return n;
}

int dump_check(const dump_section_t *sections, size_t n, const char *list, sp_arena_t *arena,
               sp_error_t *err)
{
    size_t lines = 1, found = 0, cut = 0;
    for (const char *p = list; *p != '\0'; p++)
        lines += *p == '\n';
    for (size_t i = 0; i < n; i++)
        found += sections[i].n;
    int *listed = sp_arena_alloc(arena, lines, sizeof *listed);
    int *ids = sp_arena_alloc(arena, found + 1, sizeof *ids);
    if (listed == NULL || ids == NULL)
        return sp_error_set(err, SP_E_OUT_OF_MEMORY, "no memory for the schema's dump");
    lines = read_list(list, listed);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sections[i].n; j++)
            ids[cut++] = sections[i].entries[j].id;
    qsort(listed, lines, sizeof *listed, compare_ids);
    qsort(ids, cut, sizeof *ids, compare_ids);
    if (lines == cut && memcmp(listed, ids, cut * sizeof *ids) == 0)
        return 0;
    return sp_error_set(err, SP_E_MALFORMED,
                        "the schema's dump has %zu entries, and %zu places that look like one: a "
                        "comment or a body holds a line `-- TOC entry`",
                        lines, cut);
}
