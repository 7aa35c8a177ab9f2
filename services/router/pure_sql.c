#include "services/router/pure_sql.h"

#include <ctype.h>
#include <string.h>

typedef enum { END, WORD, QUOTED, ENCODED, STRING, SEMICOLON, OPEN, CLOSE, OTHER } kind_t;

typedef struct lexer {
    sp_str_t sql; // text
    size_t at;    // next byte
    kind_t kind;  // of the current token
    char word
        [64]; // WORD, QUOTED: its text, WORD in lower case, cut at 63 bytes like PostgreSQL's names
} lexer_t;

static int peek(const lexer_t *l, size_t ahead)
{
    return l->at + ahead < l->sql.len ? (unsigned char)l->sql.ptr[l->at + ahead] : -1;
}

static bool word_start(int c)
{
    return c == '_' || c >= 0x80 || (c > 0 && isalpha(c));
}

static bool word_part(int c)
{
    return word_start(c) || c == '$' || (c > 0 && isdigit(c));
}

// White space, -- to the end of the line, and /* */, which nest.
static void skip_blank(lexer_t *l)
{
    for (;;) {
        int c = peek(l, 0);
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            l->at++;
        } else if (c == '-' && peek(l, 1) == '-') {
            while (peek(l, 0) >= 0 && peek(l, 0) != '\n' && peek(l, 0) != '\r')
                l->at++;
        } else if (c == '/' && peek(l, 1) == '*') {
            size_t depth = 0;
            do {
                if (peek(l, 0) == '/' && peek(l, 1) == '*') {
                    depth++;
                    l->at += 2;
                } else if (peek(l, 0) == '*' && peek(l, 1) == '/') {
                    depth--;
                    l->at += 2;
                } else if (peek(l, 0) < 0) {
                    return;
                } else {
                    l->at++;
                }
            } while (depth > 0);
        } else {
            return;
        }
    }
}

// Behind the opening quote; a doubled quote stands for itself, and with `escapes` a backslash takes the next byte along.
static void take_quoted(lexer_t *l, int quote, bool escapes)
{
    size_t n = 0;
    for (int c; (c = peek(l, 0)) >= 0; l->at++) {
        if (escapes && c == '\\') {
            l->at++;
            continue;
        }
        if (c == quote) {
            if (peek(l, 1) != quote)
                break;
            l->at++;
        }
        if (n < sizeof l->word - 1)
            l->word[n++] = (char)c;
    }
    l->word[n] = 0;
    if (l->at < l->sql.len)
        l->at++;
}

// A string goes on behind white space and -- comments that hold the end of a line, under the rules of its beginning: what is plain to
// us may be escaped to PostgreSQL.
static bool take_continuation(lexer_t *l)
{
    bool line = false;
    size_t ahead = 0;
    for (int c; (c = peek(l, ahead)) >= 0; ahead++) {
        if (c == '-' && peek(l, ahead + 1) == '-') {
            while ((c = peek(l, ahead + 1)) >= 0 && c != '\n' && c != '\r')
                ahead++;
        } else if (c == '\n' || c == '\r') {
            line = true;
        } else if (c != ' ' && c != '\t' && c != '\f') {
            break;
        }
    }
    if (!line || peek(l, ahead) != '\'')
        return false;
    l->at += ahead + 1;
    return true;
}

// Behind the opening quote of a string.
static void take_string(lexer_t *l, bool escapes)
{
    do
        take_quoted(l, '\'', escapes);
    while (take_continuation(l));
    l->kind = STRING;
}

// $tag$ ... $tag$ at the current byte; false when it is a parameter or an operator.
static bool take_dollar(lexer_t *l)
{
    size_t end = 1;
    while (word_part(peek(l, end)) && peek(l, end) != '$' && !(end == 1 && isdigit(peek(l, end))))
        end++;
    if (peek(l, end) != '$')
        return false;
    sp_str_t tag = {l->sql.ptr + l->at, end + 1};
    l->at += tag.len;
    const char *close = memmem(l->sql.ptr + l->at, l->sql.len - l->at, tag.ptr, tag.len);
    l->at = close != NULL ? (size_t)(close - l->sql.ptr) + tag.len : l->sql.len;
    return true;
}

static void take_word(lexer_t *l)
{
    size_t n = 0;
    for (; word_part(peek(l, 0)); l->at++)
        if (n < sizeof l->word - 1)
            l->word[n++] = (char)tolower(peek(l, 0));
    l->word[n] = 0;
    l->kind = WORD;
    // E'', B'', X'', N'', U&'' and U&"": the letter belongs to the literal.
    int quote = peek(l, 0) == '&' && strcmp(l->word, "u") == 0 ? peek(l, 1) : peek(l, 0);
    if (n != 1 || strchr("ebxnu", l->word[0]) == NULL ||
        (quote != '\'' && !(quote == '"' && l->word[0] == 'u')))
        return;
    bool escapes = l->word[0] == 'e';
    if (l->word[0] == 'u' && peek(l, 0) != '&')
        return;
    l->at += peek(l, 0) == '&' ? 2 : 1;
    if (quote == '\'') {
        take_string(l, escapes);
    } else {
        take_quoted(l, quote, false);
        l->kind = ENCODED;
    }
}

static void next(lexer_t *l)
{
    skip_blank(l);
    int c = peek(l, 0);
    l->word[0] = 0;
    if (c < 0) {
        l->kind = END;
    } else if (word_start(c)) {
        take_word(l);
    } else if (c == '\'') {
        l->at++;
        take_string(l, false);
    } else if (c == '"') {
        l->at++;
        take_quoted(l, c, false);
        l->kind = QUOTED;
    } else if (c == '$' && take_dollar(l)) {
        l->kind = STRING;
    } else if (isdigit(c)) {
        while (word_part(peek(l, 0)) || peek(l, 0) == '.')
            l->at++;
        l->kind = OTHER;
    } else {
        l->at++;
        l->kind = c == ';' ? SEMICOLON : c == '(' ? OPEN : c == ')' ? CLOSE : OTHER;
    }
}

static bool in_list(const char *word, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

static const char *const first_words[] = {"select", "insert", "update", "delete", "merge",
                                          "with",   "values", "table",  NULL};
static const char *const writing_words[] = {"insert", "update", "delete", "merge", NULL};
// They outlive the transaction, and would act on whoever uses the connection next.
static const char *const session_functions[] = {"set_config",
                                                "pg_advisory_lock",
                                                "pg_advisory_lock_shared",
                                                "pg_try_advisory_lock",
                                                "pg_try_advisory_lock_shared",
                                                "pg_advisory_unlock",
                                                "pg_advisory_unlock_shared",
                                                "pg_advisory_unlock_all",
                                                NULL};
// They run a text as a statement, which may call one of those.
static const char *const text_functions[] = {"query_to_xml",
                                             "query_to_xmlschema",
                                             "query_to_xml_and_xmlschema",
                                             "ts_stat",
                                             "ts_rewrite",
                                             NULL};
// Words before ( that call nothing, and functions that change nothing. All else may write.
static const char *const harmless[] = {"abs",
                                       "all",
                                       "and",
                                       "any",
                                       "array",
                                       "array_agg",
                                       "array_length",
                                       "as",
                                       "avg",
                                       "between",
                                       "bigint",
                                       "bool_and",
                                       "bool_or",
                                       "by",
                                       "case",
                                       "cast",
                                       "ceil",
                                       "char",
                                       "coalesce",
                                       "concat",
                                       "count",
                                       "date_trunc",
                                       "distinct",
                                       "else",
                                       "except",
                                       "exists",
                                       "extract",
                                       "filter",
                                       "floor",
                                       "from",
                                       "generate_series",
                                       "greatest",
                                       "grouping",
                                       "hashtextextended",
                                       "having",
                                       "ilike",
                                       "in",
                                       "intersect",
                                       "interval",
                                       "is",
                                       "join",
                                       "json_agg",
                                       "json_build_object",
                                       "jsonb_agg",
                                       "jsonb_build_object",
                                       "lateral",
                                       "least",
                                       "left",
                                       "length",
                                       "like",
                                       "limit",
                                       "lower",
                                       "max",
                                       "md5",
                                       "min",
                                       "mod",
                                       "not",
                                       "now",
                                       "nullif",
                                       "numeric",
                                       "offset",
                                       "on",
                                       "or",
                                       "over",
                                       "partition",
                                       "position",
                                       "replace",
                                       "right",
                                       "round",
                                       "row",
                                       "row_number",
                                       "select",
                                       "sets",
                                       "some",
                                       "string_agg",
                                       "substr",
                                       "substring",
                                       "sum",
                                       "then",
                                       "to_char",
                                       "trim",
                                       "union",
                                       "upper",
                                       "using",
                                       "values",
                                       "varchar",
                                       "when",
                                       "where",
                                       "with",
                                       "within",
                                       NULL};

static int refuse_first(const lexer_t *l, sp_error_t *err)
{
    static const char *const transaction[] = {"begin", "commit",    "rollback", "start",   "end",
                                              "abort", "savepoint", "release",  "prepare", NULL};
    if (l->kind == END)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT, "the statement is empty");
    if (l->kind == WORD && in_list(l->word, transaction))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "%s is not allowed: a request is always exactly one transaction; send "
                            "its statements as one array",
                            l->word);
    return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                        "a statement starts with SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, "
                        "VALUES, TABLE or EXPLAIN; run all else directly on the shards");
}

// Moves behind EXPLAIN and its options, to the first word of what it explains.
static void skip_explain(lexer_t *l)
{
    next(l);
    if (l->kind == OPEN) {
        lexer_t inside = *l;
        next(&inside);
        if (inside.kind != WORD || in_list(inside.word, first_words))
            return; // EXPLAIN (SELECT ...)
        while (l->kind != CLOSE && l->kind != END)
            next(l);
        next(l);
        return;
    }
    while (l->kind == WORD && (strcmp(l->word, "analyze") == 0 || strcmp(l->word, "analyse") == 0 ||
                               strcmp(l->word, "verbose") == 0))
        next(l);
}

// A name that reaches the session, which outlives the transaction.
static int refuse_name(const lexer_t *l, const sql_class_t *c, sp_error_t *err)
{
    if (l->kind == ENCODED)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "U&\"...\" is not allowed: write the name as it is");
    if (l->kind != WORD && l->kind != QUOTED)
        return 0;
    if (in_list(l->word, session_functions))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "%s changes the session, which is shared by all requests", l->word);
    if (in_list(l->word, text_functions))
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "%s runs a text as a statement: send it as one", l->word);
    if (!c->read_keyword && strcmp(l->word, "pg_settings") == 0)
        return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                            "an UPDATE of pg_settings changes the session, which is shared by all "
                            "requests");
    return 0;
}

// The rest of the statement: one statement only, nothing that outlives the transaction.
static int scan_rest(lexer_t *l, sql_class_t *c, sp_error_t *err)
{
    char before[64] = "";
    int64_t depth = 0; // of parentheses
    // SELECT was seen at depth 0: an INTO there is its own, also behind a column called `insert`.
    bool selected = false;
    bool dotted = false; // behind `.`: a function of the application's, whatever its name
    for (;; next(l)) {
        if (l->kind == END)
            return 0;
        if (l->kind == SEMICOLON) {
            next(l);
            if (l->kind != END)
                return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                    "one statement each: send several as an array");
            return 0;
        }
        depth += (l->kind == OPEN) - (l->kind == CLOSE);
        bool word = l->kind == WORD, own_into = depth <= 0 && selected;
        selected = selected || (word && depth <= 0 && strcmp(l->word, "select") == 0);
        if (word && in_list(l->word, writing_words))
            c->read_keyword = false;
        if (word && strcmp(l->word, "into") == 0 &&
            (own_into || (strcmp(before, "insert") != 0 && strcmp(before, "merge") != 0)))
            return sp_error_set(err, SP_E_INVALID_ARGUMENT,
                                "SELECT INTO makes a table: run it directly on the shards");
        int rc = refuse_name(l, c, err);
        if (rc != 0)
            return rc;
        bool was_name = word || l->kind == QUOTED;
        bool known = word && !dotted && in_list(l->word, harmless);
        dotted = l->kind == OTHER && l->sql.ptr[l->at - 1] == '.';
        memcpy(before, word ? l->word : "", word ? strlen(l->word) + 1 : 1);
        if (was_name && !known) {
            lexer_t ahead = *l;
            next(&ahead);
            if (ahead.kind == OPEN)
                c->surely_reads = false;
        }
    }
}

int sql_classify(sp_str_t sql, sql_class_t *ret_class, sp_error_t *err)
{
    lexer_t l = {.sql = sql};
    sql_class_t c = {true, true};
    next(&l);
    if (l.kind == WORD && strcmp(l.word, "explain") == 0)
        skip_explain(&l);
    while (l.kind == OPEN) // (SELECT ...) UNION ...
        next(&l);
    if (l.kind != WORD || !in_list(l.word, first_words))
        return refuse_first(&l, err);
    int rc = scan_rest(&l, &c, err);
    if (rc != 0)
        return rc;
    c.surely_reads = c.surely_reads && c.read_keyword;
    *ret_class = c;
    return 0;
}
