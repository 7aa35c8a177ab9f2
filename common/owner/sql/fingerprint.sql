-- name: fingerprint
-- $1 schema, $2 table. One row with the hash and the oid, none when the table does not exist. Left out: replica identity, statistics, storage
-- parameters, Shardplane's triggers (~shardplane_*) and temporary indexes (shp_*), all of which a job changes by itself.
WITH t AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relpartbound
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
), parts AS (
    SELECT 'table ' || relkind::text || ' ' || relpersistence::text || ' ' || relrowsecurity || ' ' || relforcerowsecurity AS part FROM t
    UNION ALL
    SELECT format('column %s %s %s notnull=%s generated=%s identity=%s collation=%s default=%s', a.attnum, a.attname,
                  format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity, a.attcollation::regcollation,
                  pg_get_expr(d.adbin, d.adrelid))
      FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL
    SELECT format('constraint %s %s valid=%s', k.conname, pg_get_constraintdef(k.oid), k.convalidated)
      FROM t JOIN pg_constraint k ON k.conrelid = t.oid
    UNION ALL
    SELECT format('index %s valid=%s', pg_get_indexdef(i.indexrelid), i.indisvalid)
      FROM t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid
     WHERE x.relname NOT LIKE 'shp\_%'
    UNION ALL
    SELECT format('trigger %s enabled=%s', pg_get_triggerdef(g.oid), g.tgenabled)
      FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
     WHERE g.tgname NOT LIKE '~shardplane\_%'
    UNION ALL
    SELECT format('rule %s', pg_get_ruledef(r.oid)) FROM t JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT format('policy %s %s', p.polname, pg_get_expr(p.polqual, p.polrelid)) FROM t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL
    SELECT format('inherits %s', h.inhparent::regclass) FROM t JOIN pg_inherits h ON h.inhrelid = t.oid
    UNION ALL
    -- by oid: a partition of the same name may be another one
    SELECT format('child %s %s', h.inhrelid::regclass, h.inhrelid) FROM t JOIN pg_inherits h ON h.inhparent = t.oid
    UNION ALL
    SELECT format('partition by %s', pg_get_partkeydef(t.oid)) FROM t WHERE t.relkind = 'p'
    UNION ALL
    SELECT format('partition %s', pg_get_expr(t.relpartbound, t.oid)) FROM t WHERE t.relpartbound IS NOT NULL
)
SELECT md5(string_agg(part, E'\n' ORDER BY part COLLATE "C")), (SELECT oid FROM t)
  FROM parts HAVING count(*) > 0
