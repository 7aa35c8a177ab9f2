-- name: fingerprint
-- $1 schema, $2 table. One row with the hash and the oid, none when the table does not exist. Left out: replica identity, statistics, storage
-- parameters, Shardplane's triggers (~shardplane_*) and temporary indexes (shp_*), all of which a job changes by itself.
WITH RECURSIVE t AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relpartbound, c.relacl
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
), types(oid) AS ( -- of the columns, and what these are made of: elements of arrays, bases of domains, attributes of composites
    SELECT a.atttypid FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT sub.oid FROM types JOIN pg_type p ON p.oid = types.oid
      CROSS JOIN LATERAL (SELECT p.typelem WHERE p.typelem <> 0 AND p.typlen = -1 UNION ALL SELECT p.typbasetype WHERE p.typbasetype <> 0
                          UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE p.typrelid <> 0 AND a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS sub(oid)
), parts AS (
    SELECT 'table ' || relkind::text || ' ' || relpersistence::text || ' ' || relrowsecurity || ' ' || relforcerowsecurity || ' acl=' || coalesce(relacl::text, '') AS part FROM t
    UNION ALL
    SELECT format('column %s %s %s notnull=%s generated=%s identity=%s collation=%s acl=%s default=%s', a.attnum, a.attname,
                  format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity, a.attcollation::regcollation, a.attacl,
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
    SELECT format('policy %s for=%s permissive=%s to=%s using=%s check=%s', p.polname, p.polcmd, p.polpermissive,
                  (SELECT array_agg(r::regrole::text ORDER BY r::regrole::text COLLATE "C") FROM unnest(p.polroles) r),
                  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
      FROM t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL
    SELECT format('enum %s %s', format_type(e.enumtypid, NULL), array_agg(e.enumlabel ORDER BY e.enumsortorder))
      FROM types JOIN pg_enum e ON e.enumtypid = types.oid GROUP BY e.enumtypid
    UNION ALL
    SELECT format('domain %s notnull=%s default=%s', format_type(p.oid, NULL), p.typnotnull, pg_get_expr(p.typdefaultbin, 0))
      FROM types JOIN pg_type p ON p.oid = types.oid AND p.typtype = 'd'
    UNION ALL
    SELECT format('domain %s constraint %s %s valid=%s', format_type(k.contypid, NULL), k.conname, pg_get_constraintdef(k.oid), k.convalidated)
      FROM types JOIN pg_constraint k ON k.contypid = types.oid
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
