-- Reads about guards. $1 schema, $2 table of the guarded table.
-- name: guard_table
-- $3 key column. One row for the table and each of its partitions at any depth, the table first: its quoted name, whether it has the column,
-- whether each trigger stands as it should (ALWAYS, $4..$6 names of the functions, no condition), how many row triggers of ours there are. Nothing
-- when there is no such table. Row triggers are cloned to partitions by PostgreSQL; statement triggers fire for the table that is named only.
WITH top AS (
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
), tree AS (
    SELECT oid, 0 AS level FROM top
    UNION SELECT p.relid, p.level FROM top CROSS JOIN LATERAL pg_catalog.pg_partition_tree(top.oid) p WHERE p.relid <> top.oid
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
       EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped),
       g.row, g.stmt, g.trunc,
       (SELECT count(*) FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = '~shardplane_row')
  FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       CROSS JOIN LATERAL (
           SELECT count(*) FILTER (WHERE g.tgname = '~shardplane_row' AND g.tgtype = 31 AND p.proname = $4) AS row,
                  count(*) FILTER (WHERE g.tgname = '~shardplane_stmt' AND g.tgtype = 30 AND p.proname = $5) AS stmt,
                  count(*) FILTER (WHERE g.tgname = '~shardplane_trunc' AND g.tgtype = 34 AND p.proname = $6) AS trunc
             FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
            WHERE g.tgrelid = c.oid AND g.tgenabled = 'A' AND g.tgqual IS NULL AND g.tgattr::text = '' AND g.tgnargs = 0
              AND p.pronamespace = 'shardplane'::regnamespace) g
 ORDER BY tree.level, 1

-- name: guard_state
-- Every row trigger that fires behind ours is in it too: it could change a key that was checked already.
SELECT g.tgname, g.tgenabled, g.tgtype, p.proname, n.nspname, l.lanname, p.prosecdef, p.proconfig IS NULL AND g.tgqual IS NULL
       AND g.tgattr::text = '' AND g.tgnargs = 0, p.prosrc
  FROM pg_catalog.pg_trigger g
       JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
       JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 WHERE cn.nspname = $1 AND c.relname = $2 AND NOT g.tgisinternal
   AND (g.tgname IN ('~shardplane_row', '~shardplane_stmt', '~shardplane_trunc')
        OR (g.tgname > '~shardplane_row' COLLATE "C" AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0 AND g.tgenabled <> 'D'))
 ORDER BY g.tgname COLLATE "C"

-- name: guard_below
-- How many tables below it let something pass: partitions, at any depth, that have not the very triggers that stand on the table itself, or have a
-- row trigger that fires behind ours; and children by inheritance, to which PostgreSQL clones no trigger. No row when there is no such table.
WITH top AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
), ours AS (
    SELECT g.* FROM top JOIN pg_catalog.pg_trigger g ON g.tgrelid = top.oid
     WHERE g.tgname IN ('~shardplane_row', '~shardplane_stmt', '~shardplane_trunc')
)
SELECT CASE top.relkind WHEN 'r' THEN (SELECT count(*) FROM pg_catalog.pg_inherits i WHERE i.inhparent = top.oid) ELSE (
    SELECT count(*) FROM pg_catalog.pg_partition_tree(top.oid) p
     WHERE p.relid <> top.oid
       AND (EXISTS (SELECT FROM ours WHERE NOT EXISTS (
                      SELECT FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = p.relid AND g.tgname = ours.tgname AND g.tgfoid = ours.tgfoid AND g.tgtype = ours.tgtype
                         AND g.tgenabled = ours.tgenabled AND g.tgqual IS NULL AND g.tgattr::text = '' AND g.tgnargs = 0))
            OR EXISTS (SELECT FROM pg_catalog.pg_trigger g
                        WHERE g.tgrelid = p.relid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0
                          AND g.tgname > '~shardplane_row' COLLATE "C" AND g.tgname NOT IN ('~shardplane_stmt', '~shardplane_trunc')))) END
  FROM top
