-- Preflight. Each check returns rows (check, severity, object, message, hint). Parameters of every check that has some:
-- $1 the registered tables as JSON [{"s": schema, "t": table, "k": key column or null, "m": "sharded"|"ignored"}], $2 a JSON object of facts.
-- A registered partitioned table stands for its whole tree: checks look at its partitions, at any depth, too.

-- name: preflight_server
-- source and targets; $2 {"min_version": n, "slots": n, "walsenders": n, "origins": n, "source": bool}
WITH f AS (SELECT $2::jsonb AS f, $1::jsonb AS unused), s AS (SELECT name, setting FROM pg_settings)
SELECT 'version', 'error', 'server_version', 'PostgreSQL ' || current_setting('server_version') || ' is older than 15',
       'upgrade the server to PostgreSQL 15 or newer'
 WHERE current_setting('server_version_num')::int < 150000
UNION ALL
SELECT 'version', 'warning', 'server_version', 'PostgreSQL ' || current_setting('server_version') || ' lacks fixes to logical decoding',
       'upgrade to the latest minor release'
 WHERE current_setting('server_version_num')::int BETWEEN 150000 AND 150012
UNION ALL
SELECT 'version', 'error', 'server_version', 'the target runs an older major release than the source', 'use the same or a newer release'
  FROM f WHERE current_setting('server_version_num')::int / 10000 < (f.f->>'min_version')::int / 10000
UNION ALL
SELECT 'recovery', 'error', 'server', 'the server is a replica', 'give the endpoint of the primary' WHERE pg_is_in_recovery()
UNION ALL
SELECT 'encoding', 'error', current_database()::text, 'encoding is ' || pg_encoding_to_char(encoding) || ', not UTF8', 'use a UTF8 database'
  FROM pg_database WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8'
UNION ALL
SELECT 'wal_level', 'error', 'wal_level', 'wal_level is ' || current_setting('wal_level') || ', not logical',
       'set wal_level = logical and restart the server'
  FROM f WHERE (f.f->>'source')::bool AND current_setting('wal_level') <> 'logical'
UNION ALL
SELECT 'slots', 'error', 'max_replication_slots',
       format('%s of %s replication slots are free; the job needs %s', current_setting('max_replication_slots')::int - n, current_setting('max_replication_slots'), f.f->>'slots'),
       'raise max_replication_slots, or drop slots that nobody uses'
  FROM f, (SELECT count(*)::int AS n FROM pg_replication_slots) x
 WHERE current_setting('max_replication_slots')::int - n < (f.f->>'slots')::int
UNION ALL
SELECT 'walsenders', 'error', 'max_wal_senders',
       format('%s of %s walsenders are free; the job needs %s', current_setting('max_wal_senders')::int - n, current_setting('max_wal_senders'), f.f->>'walsenders'),
       'raise max_wal_senders'
  FROM f, (SELECT count(*)::int AS n FROM pg_stat_replication) x
 WHERE current_setting('max_wal_senders')::int - n < (f.f->>'walsenders')::int
UNION ALL
SELECT 'origins', 'error', 'max_replication_slots',
       format('%s of %s replication origins are free; the job needs %s', current_setting('max_replication_slots')::int - n, current_setting('max_replication_slots'), f.f->>'origins'),
       'raise max_replication_slots (it also bounds origins)'
  FROM f, (SELECT count(*)::int AS n FROM pg_replication_origin) x
 WHERE current_setting('max_replication_slots')::int - n < (f.f->>'origins')::int
UNION ALL
SELECT 'wal_room', 'error', 'max_slot_wal_keep_size',
       'max_slot_wal_keep_size is ' || current_setting('max_slot_wal_keep_size') || ': the slot could be invalidated during the copy',
       'raise it to at least 1GB, or to -1 with a watch on the disk'
  FROM f, s WHERE (f.f->>'source')::bool AND s.name = 'max_slot_wal_keep_size' AND s.setting::bigint BETWEEN 0 AND 1023
UNION ALL
SELECT 'other_consumer', 'error', slot_name::text, format('logical slot %s (%s) also consumes this database''s WAL; its consumer would miss the moved rows'' new home', slot_name, plugin),
       'drop the slot, or end its consumer''s use of this database, before the split'
  FROM f, pg_replication_slots
 WHERE (f.f->>'source')::bool AND slot_type = 'logical' AND database = current_database() AND slot_name NOT LIKE 'shp\_%'
UNION ALL
SELECT 'subscription', 'error', subname::text, format('subscription %s writes into this database', subname), 'drop it before the split'
  FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'prepared_transaction', CASE WHEN clock_timestamp() - prepared > interval '60 seconds' THEN 'error' ELSE 'warning' END, gid,
       format('prepared transaction %s of %s in database %I is open for %s s: the slot and the fence would wait for it', quote_literal(gid), owner, database, extract(epoch FROM clock_timestamp() - prepared)::int),
       'COMMIT PREPARED or ROLLBACK PREPARED it'
  FROM f, pg_prepared_xacts WHERE (f.f->>'source')::bool -- a slot waits for those of all databases
UNION ALL
SELECT 'long_transaction', CASE WHEN clock_timestamp() - xact_start > interval '5 minutes' THEN 'error' ELSE 'warning' END, pid::text,
       format('backend %s (%s, %s) has a writing transaction open in database %I for %s s: the slot would wait for it', pid, usename, application_name, datname, extract(epoch FROM clock_timestamp() - xact_start)::int),
       'end it, or wait for its end'
  FROM f, pg_stat_activity
 WHERE (f.f->>'source')::bool AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
   AND clock_timestamp() - xact_start > interval '60 seconds'
UNION ALL
SELECT 'large_objects', 'error', 'pg_largeobject', count(*) || ' large objects would not be moved', 'move them into bytea columns, or delete them'
  FROM f, pg_largeobject_metadata WHERE (f.f->>'source')::bool HAVING count(*) > 0
UNION ALL
SELECT 'golden_hash', 'error', 'hashtextextended', 'the server hashes text differently than Shardplane does', 'this build of PostgreSQL cannot be a shard'
  FROM f WHERE hashtextextended('shardplane golden key', 0)::text IS DISTINCT FROM f.f->>'golden'

-- name: preflight_admin_role
-- source, admin role; $1 tables, $2 {}
WITH t AS (
    SELECT ln.nspname AS s, l.relname AS t, l.oid, l.relowner FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text)
      JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t
      CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) p(oid)
      JOIN pg_class l ON l.oid = p.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace WHERE x.m = 'sharded' AND $2::jsonb IS NOT NULL)
SELECT 'admin_role', 'error', format('%I.%I', s, t), format('role %s is no member of %s, the owner of %I.%I', current_user, pg_get_userbyid(relowner), s, t),
       format('GRANT %I TO %I', pg_get_userbyid(relowner), current_user)
  FROM t WHERE NOT pg_has_role(current_user, relowner, 'USAGE')
UNION ALL
SELECT 'admin_role', 'error', current_database()::text, format('role %s may not CREATE in database %I', current_user, current_database()),
       format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
 WHERE NOT has_database_privilege(current_database(), 'CREATE')

-- name: preflight_apply_role
-- source and targets, apply role; $1 tables, $2 {"source": bool, "row_security": bool}
WITH f AS (SELECT $2::jsonb AS f, $1 AS unused), r AS (SELECT * FROM pg_roles WHERE rolname = current_user)
SELECT 'apply_role', 'error', current_user::text, format('role %s may not replicate', current_user), format('ALTER ROLE %I REPLICATION', current_user)
  FROM f, r WHERE (f.f->>'source')::bool AND NOT (rolreplication OR rolsuper)
UNION ALL
SELECT 'apply_role', 'error', p.proname::text, format('role %s may not call %s', current_user, p.oid::regprocedure),
       format('GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %I', p.oid::regprocedure, current_user)
  FROM f, pg_proc p
 WHERE NOT (f.f->>'source')::bool AND p.pronamespace = 'pg_catalog'::regnamespace
   AND p.proname IN ('pg_replication_origin_create', 'pg_replication_origin_drop', 'pg_replication_origin_session_setup', 'pg_replication_origin_session_reset',
                     'pg_replication_origin_xact_setup', 'pg_replication_origin_progress', 'pg_replication_origin_session_progress')
   AND NOT has_function_privilege(p.oid, 'EXECUTE')
UNION ALL
SELECT 'apply_role', 'error', 'session_replication_role', format('role %s may not set session_replication_role', current_user),
       format('GRANT SET ON PARAMETER session_replication_role TO %I', current_user)
  FROM f WHERE NOT (f.f->>'source')::bool AND NOT has_parameter_privilege('session_replication_role', 'SET')
UNION ALL
SELECT 'row_security', 'error', current_user::text, format('tables have row level security, and role %s does not bypass it here: it cannot copy rows into them', current_user),
       format('ALTER ROLE %I BYPASSRLS', current_user)
  FROM f, r WHERE NOT (f.f->>'source')::bool AND (f.f->>'row_security')::bool AND NOT (rolbypassrls OR rolsuper)

-- name: preflight_tables
-- source; $1 tables, $2 {"key_type": "bigint"|"text"|"uuid"|null, "rls_ok": bool}
WITH f AS (SELECT $2::jsonb AS f),
reg AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, k text, m text) WHERE m = 'sharded'),
ign AS (SELECT c.oid FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text)
          JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t WHERE x.m = 'ignored'),
-- top: the table that is registered; every = top and all its partitions
every AS (SELECT reg.s, reg.t, reg.k, format('%I.%I', ln.nspname, l.relname) AS q, l.oid, l.relkind, l.relpersistence, l.relrowsecurity, l.relispartition, l.oid = c.oid AS top
            FROM reg JOIN pg_namespace n ON n.nspname = reg.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = reg.t
                 CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) p(oid)
                 JOIN pg_class l ON l.oid = p.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace),
t AS (SELECT * FROM every WHERE top),
col AS (SELECT t.q, t.oid, a.attname, a.attnotnull, a.attgenerated, a.attcollation, a.atttypid FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = t.k AND a.attnum > 0 AND NOT a.attisdropped)
SELECT 'table_missing', 'error', format('%I.%I', reg.s, reg.t), 'the table does not exist', 'create it, or unregister it'
  FROM reg WHERE NOT EXISTS (SELECT FROM t WHERE t.s = reg.s AND t.t = reg.t)
UNION ALL
SELECT 'table_kind', 'error', q, CASE relkind WHEN 'f' THEN 'a foreign table has no rows of its own to move' ELSE 'neither an ordinary nor a partitioned table' END,
       CASE WHEN top THEN 'register ordinary and partitioned tables only' ELSE 'detach this partition, or replace it by an ordinary table' END
  FROM every WHERE relkind NOT IN ('r', 'p')
UNION ALL
SELECT 'partition', 'error', q, format('the table is a partition of %s, and moves with it only', pg_partition_root(oid)::regclass), format('register %s instead', pg_partition_root(oid)::regclass)
  FROM t WHERE relispartition
UNION ALL
SELECT 'partition', 'error', every.q, 'the partition is registered as ignored, but the table that it belongs to is sharded', 'unregister the partition, or detach it'
  FROM every JOIN ign ON ign.oid = every.oid WHERE NOT top
UNION ALL
SELECT 'inheritance', 'error', t.q, 'the table is a parent or a child of another one', 'register tables that stand alone or are partitioned'
  FROM t WHERE relkind = 'r' AND NOT relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = t.oid OR i.inhparent = t.oid)
UNION ALL
SELECT 'unlogged', 'error', q, 'the table is not logged, so its changes cannot be followed', format('ALTER TABLE %s SET LOGGED', q) FROM every WHERE relkind = 'r' AND relpersistence <> 'p'
UNION ALL
SELECT 'key_column', 'error', t.q, format('there is no column %I', t.k), 'name the key column exactly as it is written in the catalog' FROM t WHERE NOT EXISTS (SELECT FROM col WHERE col.oid = t.oid)
UNION ALL
SELECT 'key_null', 'error', q, format('key column %I allows NULL', attname), format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', q, attname) FROM col WHERE NOT attnotnull
UNION ALL
SELECT 'key_generated', 'error', q, format('key column %I is generated', attname), 'use a stored column that the application sets' FROM col WHERE attgenerated <> ''
UNION ALL
SELECT 'key_type', 'error', q, format('key column %I has type %s; %s', attname, format_type(atttypid, NULL),
            CASE WHEN atttypid IN ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype, 'bpchar'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'timetz'::regtype, 'interval'::regtype, 'money'::regtype)
                 THEN 'two values that SQL calls equal can print differently, so they could land on two shards' ELSE 'it is no key type' END),
       'key types are smallint, integer, bigint, text, varchar and uuid'
  FROM col WHERE atttypid NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype)
UNION ALL
SELECT 'key_type', 'error', q, format('key column %I has type %s, but the keyspace''s key type is %s', attname, format_type(atttypid, NULL), f.f->>'key_type'), 'all tables of a keyspace share one key'
  FROM f, col WHERE f.f->>'key_type' IS NOT NULL AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype)
   AND f.f->>'key_type' <> CASE WHEN atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'bigint' WHEN atttypid = 'uuid'::regtype THEN 'uuid' ELSE 'text' END
UNION ALL
SELECT 'key_collation', 'error', q, format('key column %I has collation %s, under which different texts are equal', attname, attcollation::regcollation), 'use a deterministic collation'
  FROM col JOIN pg_collation x ON x.oid = col.attcollation WHERE NOT x.collisdeterministic
UNION ALL
SELECT 'no_primary_key', 'error', q, 'the table has no primary key', format('ALTER TABLE %s ADD PRIMARY KEY (...)', q)
  FROM t WHERE relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary AND i.indisvalid)
UNION ALL
SELECT 'deferrable_primary_key', 'error', q, 'the primary key is deferrable, so it cannot identify rows in the stream', 'make it NOT DEFERRABLE'
  FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary WHERE NOT i.indimmediate
UNION ALL
-- by the classes of the index: a domain has its base type's, an enum or an array of any type PostgreSQL's
SELECT 'primary_key_type', 'error', q, format('primary key column %I has type %s, whose operator = is not in pg_catalog: the stream could not find rows by it', a.attname, format_type(a.atttypid, NULL)),
       'use a type of PostgreSQL''s own, such as text or bigint, for the columns of the primary key'
  FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS k(attnum, class)
       JOIN pg_opclass c ON c.oid = k.class JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3
       JOIN pg_operator o ON o.oid = m.amopopr AND o.oprnamespace <> 'pg_catalog'::regnamespace JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
UNION ALL
SELECT 'row_security', 'error', q, 'row level security is on, and the apply role does not bypass it: a copy would silently miss rows', 'ALTER ROLE <apply role> BYPASSRLS, or switch row security off'
  FROM f, every WHERE relrowsecurity AND NOT (f.f->>'rls_ok')::bool
UNION ALL
SELECT 'rule', 'error', q, format('rule %I rewrites statements on the table', r.rulename), 'replace it by a trigger'
  FROM every JOIN pg_rewrite r ON r.ev_class = every.oid WHERE relkind IN ('r', 'p') AND r.ev_enabled IN ('A', 'R')
UNION ALL
SELECT 'trigger_always', 'error', q, format('trigger %I fires %s, so it would fire again for replicated rows', g.tgname, CASE g.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'for REPLICA' END),
       format('ALTER TABLE %s ENABLE TRIGGER %I', q, g.tgname)
  FROM every JOIN pg_trigger g ON g.tgrelid = every.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgenabled IN ('A', 'R') AND g.tgname NOT LIKE '~shardplane\_%'
UNION ALL
SELECT 'trigger_order', 'error', q, format('trigger %I fires after the guard and could change the key', g.tgname), 'give it a name that sorts before ~shardplane_row'
  FROM every JOIN pg_trigger g ON g.tgrelid = every.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND (g.tgtype & 3) = 3 AND g.tgname COLLATE "C" > '~shardplane_row' AND g.tgname NOT LIKE '~shardplane\_%'
UNION ALL
SELECT 'foreign_key', 'error', q, format('foreign key %I refers to %s, which is not a sharded table of this keyspace', k.conname, k.confrelid::regclass), 'register the table it refers to, or drop the constraint'
  FROM every JOIN pg_constraint k ON k.conrelid = every.oid AND k.contype = 'f' AND k.conparentid = 0 WHERE NOT EXISTS (SELECT FROM every p WHERE p.oid = k.confrelid)
UNION ALL
SELECT 'foreign_key', 'error', k.conrelid::regclass::text, format('foreign key %I refers to the sharded table %s from a table that is not moved', k.conname, q), 'register that table as sharded too, or drop the constraint'
  FROM every JOIN pg_constraint k ON k.confrelid = every.oid AND k.contype = 'f' AND k.conparentid = 0 WHERE NOT EXISTS (SELECT FROM every c WHERE c.oid = k.conrelid)
UNION ALL
SELECT 'unique_per_shard', 'warning', every.q, format('unique index %s does not hold the key column: from now on it is unique in each shard only', i.indexrelid::regclass), 'add the key column, or make the values unique by other means'
  FROM every JOIN pg_index i ON i.indrelid = every.oid AND i.indisunique AND NOT i.indisprimary JOIN pg_class x ON x.oid = i.indexrelid
 WHERE x.relname NOT LIKE 'shp\_%' AND NOT x.relispartition
   AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = every.oid AND a.attname = every.k AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))

-- name: preflight_column_types
-- source; $1 tables, $2 {}. Types that carry OIDs, also inside arrays, domains, composites and ranges.
WITH RECURSIVE t AS (SELECT format('%I.%I', x.s, x.t) AS q, c.oid FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text)
        JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t WHERE x.m = 'sharded' AND $2::jsonb IS NOT NULL),
ty(q, attname, oid) AS (
    SELECT t.q, a.attname, a.atttypid FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT ty.q, ty.attname, sub.oid FROM ty JOIN pg_type p ON p.oid = ty.oid
      CROSS JOIN LATERAL (SELECT p.typelem WHERE p.typelem <> 0 AND p.typlen = -1 UNION ALL SELECT p.typbasetype WHERE p.typbasetype <> 0
                          UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = p.oid
                          UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE p.typrelid <> 0 AND a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS sub(oid))
SELECT DISTINCT 'oid_type', 'error', q, format('column %I holds %s, whose values are OIDs of this server only', attname, format_type(oid, NULL)), 'store the name as text'
  FROM ty WHERE oid IN ('regclass'::regtype, 'regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype, 'regoperator'::regtype, 'regtype'::regtype,
                        'regrole'::regtype, 'regnamespace'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regcollation'::regtype)

-- name: preflight_unlisted
-- source; $1 tables, $2 {}. Tables in neither list; partitions are in the list of the table above them.
SELECT 'unlisted_table', 'error', format('%I.%I', n.nspname, c.relname), 'the table is neither registered as sharded nor as ignored',
       'register it in the keyspace: mode sharded with its key column, or mode ignored to leave it where it is'
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'shardplane') AND n.nspname NOT LIKE 'pg\_%'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
   AND NOT EXISTS (SELECT FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text) WHERE x.s = n.nspname AND x.t = c.relname) AND $2::jsonb IS NOT NULL
   AND NOT EXISTS (SELECT FROM pg_partition_ancestors(c.oid) p JOIN pg_class pc ON pc.oid = p.relid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
                     JOIN jsonb_to_recordset($1::jsonb) AS x(s text, t text) ON x.s = pn.nspname AND x.t = pc.relname)

-- name: preflight_sequences
-- source; $1 tables, $2 {"stride": n, "ordinals": [n, ...]}
WITH f AS (SELECT $2::jsonb AS f),
t AS (SELECT format('%I.%I', x.s, x.t) AS q, p.oid FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text)
        JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t
        CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) p(oid) WHERE x.m = 'sharded'),
-- bound: owned by a column of a table, or used in its default. The others move, too: an application may call nextval() on them.
ids AS (SELECT d.objid AS oid, true AS bound FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        UNION ALL
        SELECT d.refobjid, true FROM t JOIN pg_attrdef ad ON ad.adrelid = t.oid JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid AND d.refclassid = 'pg_class'::regclass
        UNION ALL
        SELECT c.oid, false FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND n.nspname <> 'shardplane' AND n.nspname NOT LIKE 'pg\_%'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i', 'e'))),
seq AS (SELECT s.seqrelid, s.seqincrement, s.seqmax, s.seqcycle, (SELECT bool_or(i.bound) FROM ids i WHERE i.oid = s.seqrelid) AS bound,
               coalesce((SELECT last_value FROM pg_sequences v JOIN pg_class sc ON sc.oid = s.seqrelid JOIN pg_namespace sn ON sn.oid = sc.relnamespace
                          WHERE v.schemaname = sn.nspname AND v.sequencename = sc.relname), s.seqstart) AS last
          FROM pg_sequence s WHERE s.seqrelid IN (SELECT oid FROM ids))
SELECT 'sequence_ordinal', 'error', 'keyspace', format('shard ordinal %s is not below the keyspace''s sequence_stride %s', o, f.f->>'stride'), 'make the keyspace with a larger sequence_stride'
  FROM f, jsonb_array_elements_text(f.f->'ordinals') AS o WHERE o::bigint >= (f.f->>'stride')::bigint AND EXISTS (SELECT FROM seq)
UNION ALL
SELECT 'sequence_direction', 'error', seqrelid::regclass::text, 'the sequence counts downward or cycles, so shards could issue the same value', 'use an ascending sequence without CYCLE'
  FROM seq WHERE bound AND (seqincrement < 1 OR seqcycle)
UNION ALL
SELECT 'sequence_cycle', 'warning', seqrelid::regclass::text, 'the sequence cycles: each shard goes on with it by itself, and may issue the same value', 'nothing, unless its values must differ between shards'
  FROM seq WHERE NOT bound AND seqcycle
UNION ALL
SELECT 'sequence_room', 'error', seqrelid::regclass::text, format('only %s values are left, in steps of %s', seqmax - last, f.f->>'stride'), 'change the sequence and its column to bigint'
  FROM f, seq WHERE (bound OR (seqincrement > 0 AND NOT seqcycle)) AND (seqmax - last) / (f.f->>'stride')::bigint < 10000

-- name: preflight_target
-- target; $1 tables with the source's partitions, $2 {"golden": ..., "collate", "ctype", "provider", "collversion", "extensions": {name: version}, "roles": [..]} of the source
WITH f AS (SELECT $2::jsonb AS f)
SELECT 'target_not_empty', 'error', format('%I.%I', n.nspname, c.relname), 'the table exists on the target already', 'drop it there: the job makes the tables from the source''s definitions'
  FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text) JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t
 WHERE x.m = 'sharded' AND n.nspname <> 'shardplane'
UNION ALL
SELECT 'collation', 'error', datname::text, format('the database''s collation (%s, %s, version %s) differs from the source''s (%s, %s, version %s)', datcollate, datctype, datcollversion, f.f->>'collate', f.f->>'ctype', f.f->>'collversion'),
       'make the target database with the source''s locale, on the same libc or ICU release'
  FROM f, pg_database WHERE datname = current_database()
   AND (datcollate IS DISTINCT FROM f.f->>'collate' OR datctype IS DISTINCT FROM f.f->>'ctype' OR datlocprovider::text IS DISTINCT FROM f.f->>'provider' OR datcollversion IS DISTINCT FROM f.f->>'collversion')
UNION ALL
SELECT 'extension', 'error', e.key, CASE WHEN x.extversion IS NULL THEN format('extension %s %s of the source is missing', e.key, e.value) ELSE format('extension %s has version %s, on the source %s', e.key, x.extversion, e.value) END,
       format('CREATE EXTENSION %I VERSION %L', e.key, e.value)
  FROM f, jsonb_each_text(f.f->'extensions') AS e LEFT JOIN pg_extension x ON x.extname = e.key WHERE x.extversion IS DISTINCT FROM e.value
UNION ALL
SELECT 'role', 'error', r, format('role %s owns objects or has privileges on the source, and is missing here', r), format('CREATE ROLE %I', r)
  FROM f, jsonb_array_elements_text(f.f->'roles') AS r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)

-- name: preflight_source_facts
-- source; $1 tables, $2 {}: one row, the JSON for preflight_target
SELECT jsonb_build_object('collate', d.datcollate, 'ctype', d.datctype, 'provider', d.datlocprovider, 'collversion', d.datcollversion,
    'extensions', (SELECT coalesce(jsonb_object_agg(extname, extversion), '{}') FROM pg_extension WHERE extname <> 'plpgsql'),
    'roles', (SELECT coalesce(jsonb_agg(DISTINCT r.rolname), '[]') FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text)
                JOIN pg_namespace tn ON tn.nspname = x.s JOIN pg_class tc ON tc.relnamespace = tn.oid AND tc.relname = x.t
                CROSS JOIN LATERAL (SELECT tc.oid UNION SELECT relid FROM pg_partition_tree(tc.oid)) p(oid)
                JOIN pg_class c ON c.oid = p.oid JOIN pg_namespace n ON n.oid = c.relnamespace
                CROSS JOIN LATERAL (SELECT c.relowner AS o UNION SELECT n.nspowner UNION SELECT g.grantee FROM aclexplode(c.relacl) g UNION SELECT g.grantee FROM aclexplode(n.nspacl) g) o
                JOIN pg_roles r ON r.oid = o.o WHERE x.m = 'sharded' AND n.nspname <> 'shardplane' AND r.rolname NOT LIKE 'pg\_%'),
    'row_security', EXISTS (SELECT FROM jsonb_to_recordset($1::jsonb) AS x(s text, t text, m text) JOIN pg_namespace tn ON tn.nspname = x.s
                JOIN pg_class tc ON tc.relnamespace = tn.oid AND tc.relname = x.t CROSS JOIN LATERAL (SELECT tc.oid UNION SELECT relid FROM pg_partition_tree(tc.oid)) p(oid)
                JOIN pg_class c ON c.oid = p.oid WHERE x.m = 'sharded' AND c.relrowsecurity),
    'version', current_setting('server_version_num'), 'timeline', ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int)
  FROM pg_database d WHERE d.datname = current_database() AND $2::jsonb IS NOT NULL

-- name: preflight_plan
-- source; $1 tables, $2 {"job": id}. One row a sharded table, and one each partition of it at any depth, parents first; the last two columns:
-- whether it is partitioned itself, whether it is a partition. A type is portable in binary when neither it nor what it is made of sends OIDs that were
-- given by this server: array_send and record_send write the element types' OIDs.
WITH t AS (SELECT ln.nspname AS s, l.relname AS t, x.k, x.n, p.level, l.oid, l.relreplident, l.reltuples, l.relkind
        FROM ROWS FROM (jsonb_to_recordset($1::jsonb) AS (s text, t text, k text, m text)) WITH ORDINALITY AS x(s, t, k, m, n)
        JOIN pg_namespace n ON n.nspname = x.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = x.t
        CROSS JOIN LATERAL (SELECT c.oid, 0 AS level UNION SELECT relid, level FROM pg_partition_tree(c.oid)) p(oid, level)
        JOIN pg_class l ON l.oid = p.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace
       WHERE x.m = 'sharded' AND c.relkind IN ('r', 'p') AND l.relkind IN ('r', 'p') AND $2::jsonb IS NOT NULL),
pk AS (SELECT t.oid, (i.indkey::int2[])[0:i.indnkeyatts - 1] AS cols FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary),
ri AS (SELECT t.oid, (i.indkey::int2[])[0:i.indnkeyatts - 1] AS cols, ic.relname FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisreplident JOIN pg_class ic ON ic.oid = i.indexrelid),
key AS (SELECT t.oid, a.attnum FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = t.k)
SELECT t.s, t.t, t.k, t.oid, pg_relation_filenode(t.oid), pg_relation_size(t.oid) / current_setting('block_size')::int, (CASE WHEN t.reltuples >= 0 THEN t.reltuples
             -- Never analyzed: as the planner guesses, from the columns' widths (32 bytes where they vary) and 28 bytes a row.
             ELSE pg_relation_size(t.oid) / (SELECT 28 + sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END)
                                               FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped) END)::bigint,
       pg_table_size(t.oid),
       (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
       (SELECT jsonb_agg(a.attname ORDER BY o.n) FROM pk CROSS JOIN LATERAL unnest(pk.cols) WITH ORDINALITY AS o(attnum, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.attnum WHERE pk.oid = t.oid),
       (SELECT bool_and(p.typsend <> 0 AND CASE
                    WHEN p.typtype IN ('b') AND p.typelem <> 0 AND p.typlen = -1 THEN p.typelem < 16384
                    WHEN p.typtype = 'b' THEN true
                    WHEN p.typtype = 'e' THEN true
                    WHEN p.typtype = 'd' THEN p.typbasetype < 16384
                    WHEN p.typtype IN ('r', 'm') THEN p.oid < 16384
                    ELSE false END)
          FROM pg_attribute a JOIN pg_type p ON p.oid = a.atttypid WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
       CASE WHEN t.relreplident = 'i' THEN 'i:' || (SELECT relname FROM ri WHERE ri.oid = t.oid) ELSE t.relreplident::text END,
       CASE t.relreplident WHEN 'f' THEN false WHEN 'n' THEN true
            WHEN 'd' THEN NOT (SELECT key.attnum = ANY (pk.cols) FROM key, pk WHERE key.oid = t.oid AND pk.oid = t.oid)
            ELSE NOT (SELECT ri.cols @> (pk.cols || key.attnum) FROM key, pk, ri WHERE key.oid = t.oid AND pk.oid = t.oid AND ri.oid = t.oid) END,
       t.relkind = 'p', t.level > 0
  FROM t ORDER BY t.n, t.level, t.s, t.t

-- name: preflight_key_type
SELECT CASE a.atttypid WHEN 'int2'::regtype THEN 1 WHEN 'int4'::regtype THEN 1 WHEN 'int8'::regtype THEN 1 WHEN 'text'::regtype THEN 2 WHEN 'varchar'::regtype THEN 2 WHEN 'uuid'::regtype THEN 3 ELSE 0 END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3
