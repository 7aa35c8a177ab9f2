-- name: verify_columns
-- $1 quoted name of the table: its columns, also generated ones: quoted name, base type's oid, whether it may be NULL.
WITH RECURSIVE base AS (
    SELECT a.attnum, a.attname, a.attnotnull, t.oid, t.typtype, t.typbasetype, t.typnotnull
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, b.attname, b.attnotnull, t.oid, t.typtype, t.typbasetype, t.typnotnull
      FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
)
SELECT quote_ident(attname), oid::bigint, NOT attnotnull FROM base WHERE typtype <> 'd' ORDER BY attnum
