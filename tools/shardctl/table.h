// Tables for people.
#ifndef SP_SHARDCTL_TABLE_H
#define SP_SHARDCTL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct sp_column {
    const char *header; // title
    const char *path;   // "health.verdict" in each row
    bool right;         // numbers
} sp_column_t;

// A value as text: strings as they are, null as "", lists with commas, a server as a URL. Control characters become dots, so that a name cannot steer the
// terminal. Allocated.
char *table_text(const json_t *value);
// For programs: indented, with the shortest digits that give the same numbers back.
void table_json(FILE *out, const json_t *value);
// Member by dotted path, or NULL.
json_t *table_at(json_t *object, const char *path);
void table_print(FILE *out, json_t *rows, const sp_column_t *columns, size_t n);
// One "name: value" line a column that has a value.
void table_card(FILE *out, json_t *object, const sp_column_t *columns, size_t n);
// Rows that are lists, below the names of columns[].name.
void table_result(FILE *out, json_t *columns, json_t *rows);
void table_findings(FILE *out, json_t *findings);
// 1234567 -> "1,234,567"; bytes -> "1.2 MB"; ms -> "3.4 s". buf of at least 32 bytes; returned.
const char *table_count(char *buf, double n);
const char *table_bytes(char *buf, double n);
const char *table_ms(char *buf, double ms);

#endif
