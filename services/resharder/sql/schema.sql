-- What the schema and index tasks ask about the entries of a dump. All names qualified or in pg_catalog.
-- name: entries
-- $1, $2: catalogs and oids of the entries (0: none), $3 ignored tables (quoted names). One row an entry, in order: whether it stays here by
-- itself, kind and identity as DROP wants them, oid of the table that it belongs to (0), contype, whether a constraint is validated, its
-- definition, the table's name and kind, the constraint's name.
WITH e AS (
    SELECT class, obj, n FROM unnest($1::oid[], $2::oid[]) WITH ORDINALITY AS u(class, obj, n)
), ignored AS (
    SELECT p.oid FROM unnest($3::text[]) t
     CROSS JOIN LATERAL (SELECT to_regclass(t)::oid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(t))) p(oid) WHERE to_regclass(t) IS NOT NULL
), gone AS (
    SELECT oid FROM ignored
    UNION
    SELECT d.objid FROM pg_depend d JOIN ignored i ON d.refobjid = i.oid
     WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
), owned AS (
    SELECT e.n, e.class, e.obj, k.contype, k.convalidated, k.conname, k.oid AS con, k.conparentid,
           coalesce(CASE WHEN e.class IN (0, 'pg_class'::regclass) THEN coalesce(i.indrelid, s.refobjid, e.obj) END,
                    k.conrelid, g.tgrelid, d.adrelid, p.polrelid, r.ev_class, x.stxrelid, y.typrelid, 0::oid) AS tab
      FROM e
           LEFT JOIN pg_index i ON e.class = 'pg_class'::regclass AND i.indexrelid = e.obj
           LEFT JOIN LATERAL (SELECT refobjid FROM pg_depend WHERE e.class = 'pg_class'::regclass AND classid = e.class AND objid = e.obj
                                 AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
                                 AND (SELECT relkind FROM pg_class WHERE oid = e.obj) = 'S' LIMIT 1) s ON true
           LEFT JOIN pg_constraint k ON e.class = 'pg_constraint'::regclass AND k.oid = e.obj
           LEFT JOIN pg_trigger g ON e.class = 'pg_trigger'::regclass AND g.oid = e.obj
           LEFT JOIN pg_attrdef d ON e.class = 'pg_attrdef'::regclass AND d.oid = e.obj
           LEFT JOIN pg_policy p ON e.class = 'pg_policy'::regclass AND p.oid = e.obj
           LEFT JOIN pg_rewrite r ON e.class = 'pg_rewrite'::regclass AND r.oid = e.obj
           LEFT JOIN pg_statistic_ext x ON e.class = 'pg_statistic_ext'::regclass AND x.oid = e.obj
           LEFT JOIN pg_type y ON e.class = 'pg_type'::regclass AND y.oid = e.obj
)
SELECT o.n,
       o.obj <> 0 AND (
           o.tab IN (SELECT oid FROM gone) OR o.obj IN (SELECT oid FROM gone)
           -- temporary replica identities and guards of ours
           OR EXISTS (SELECT FROM pg_class c WHERE o.class = 'pg_class'::regclass AND c.oid = o.obj AND c.relkind IN ('i', 'I') AND c.relname ~ '^shp_[a-z2-7]{12}_ri_[0-9]+$')
           OR EXISTS (SELECT FROM pg_trigger g WHERE o.class = 'pg_trigger'::regclass AND g.oid = o.obj AND g.tgname LIKE '~shardplane\_%')
           OR EXISTS (SELECT FROM pg_namespace s WHERE o.class = 'pg_namespace'::regclass AND s.oid = o.obj AND s.nspname = 'shardplane')
           -- what belongs to a database rather than to its tables
           OR o.class IN ('pg_event_trigger'::regclass, 'pg_publication'::regclass, 'pg_publication_rel'::regclass,
                          'pg_publication_namespace'::regclass, 'pg_subscription'::regclass, 'pg_default_acl'::regclass)),
       replace(upper(i.type), '-', ' '), -- FOREIGN DATA WRAPPER
       -- always quoted, so that names compare as text
       CASE WHEN f.oid IS NOT NULL THEN format('"%s"."%s"(%s)', replace(fn.nspname, '"', '""'), replace(f.proname, '"', '""'),
                                               CASE WHEN f.prokind = 'a' AND f.pronargs = 0 THEN '*' ELSE pg_get_function_identity_arguments(f.oid) END)
            WHEN i.name IS NULL THEN i.identity
            ELSE concat(CASE WHEN i.schema LIKE '"%' THEN i.schema ELSE '"' || i.schema || '"' END || '.',
                        CASE WHEN i.name LIKE '"%' THEN i.name ELSE '"' || i.name || '"' END) END,
       o.tab, o.contype, o.convalidated, CASE WHEN o.con IS NOT NULL THEN pg_get_constraintdef(o.con) END,
       CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', cn.nspname, c.relname) END, c.relkind, quote_ident(o.conname)
  FROM owned o
       LEFT JOIN LATERAL pg_identify_object(nullif(o.class, 0::oid), nullif(o.obj, 0::oid), 0) i ON true
       LEFT JOIN pg_proc f ON o.class = 'pg_proc'::regclass AND f.oid = o.obj LEFT JOIN pg_namespace fn ON fn.oid = f.pronamespace
       LEFT JOIN pg_class c ON c.oid = o.tab LEFT JOIN pg_namespace cn ON cn.oid = c.relnamespace
 ORDER BY o.n

-- name: sequences
-- Sequences of this database that are not ours and not of an extension: quoted name, increment.
SELECT format('%I.%I', n.nspname, c.relname), s.seqincrement
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname <> 'shardplane' AND n.nspname !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1

-- name: existing
-- $1: identities of schemas, $2: of extensions. One row for each that is here: kind, identity.
SELECT 'SCHEMA', i FROM unnest($1::text[]) i WHERE to_regnamespace(i) IS NOT NULL
UNION ALL
SELECT 'EXTENSION', i FROM unnest($2::text[]) i WHERE EXISTS (SELECT FROM pg_extension WHERE i = '"' || replace(extname, '"', '""') || '"')

-- name: take_made
-- $1 job: takes what the job has made here off the list, in the order of dropping: kind, identity.
WITH gone AS (DELETE FROM shardplane.made WHERE job_id = $1 RETURNING n, kind, identity) SELECT kind, identity FROM gone ORDER BY n

-- name: keep_made
-- $1 job, $2 kinds, $3 identities: what the job has made here, in the order of dropping.
INSERT INTO shardplane.made (job_id, n, kind, identity) SELECT $1, n, kind, identity FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS m(kind, identity, n)
