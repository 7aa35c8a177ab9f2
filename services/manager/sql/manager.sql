-- What the manager asks of shards.

-- name: identity
SELECT (pg_control_system()).system_identifier::text, current_database(), session_user,
       pg_is_in_recovery(), r.rolreplication OR r.rolsuper, current_setting('server_version_num')
  FROM pg_roles r WHERE r.rolname = session_user

-- name: quiet
SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1

-- name: apply_role_secret
-- $1 SCRAM verifier, $2 mark: into settings of this session, because DO takes no parameters.
SELECT length(set_config('shardplane.secret', $1, false)), length(set_config('shardplane.mark', $2, false))

-- name: apply_role_make
DO $$
DECLARE
    secret text := current_setting('shardplane.secret');
    mark text := current_setting('shardplane.mark');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shardplane_apply') THEN
        CREATE ROLE shardplane_apply;
        EXECUTE format('COMMENT ON ROLE shardplane_apply IS %L', mark);
    ELSIF NOT EXISTS (SELECT FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid AND d.classoid = 'pg_authid'::regclass
                       WHERE r.rolname = 'shardplane_apply' AND d.description = mark) THEN
        RAISE EXCEPTION 'role shardplane_apply exists and was not made by this installation of Shardplane, so its password is not known';
    END IF;
    EXECUTE format('ALTER ROLE shardplane_apply LOGIN REPLICATION NOSUPERUSER PASSWORD %L', secret);
    PERFORM set_config('shardplane.secret', '', false);
END $$

-- name: apply_role_grant_prepare
SELECT set_config('shardplane.role', $1, false)

-- name: apply_role_grant
-- Functions of replication origins are pg_catalog's, so each database needs its own grants.
DO $$
DECLARE
    role text := current_setting('shardplane.role');
    f text;
BEGIN
    EXECUTE format('GRANT pg_monitor, pg_read_all_data, pg_write_all_data TO %I', role);
    EXECUTE format('GRANT SET ON PARAMETER session_replication_role, deadlock_timeout TO %I', role);
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role);
    FOR f IN SELECT p.oid::regprocedure::text FROM pg_proc p
              WHERE p.pronamespace = 'pg_catalog'::regnamespace
                AND (p.proname LIKE 'pg\_replication\_origin\_%' OR p.proname = 'pg_show_replication_origin_status') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, role);
    END LOOP;
    EXECUTE format('GRANT SELECT ON pg_catalog.pg_replication_origin_status TO %I', role);
END $$

-- name: table_exists
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p'))::text

-- name: table_guarded
-- Whether a trigger of ours stands on it.
SELECT EXISTS (SELECT FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND g.tgname = '~shardplane_stmt')::text

-- name: terminate_task
-- $1 job, $2 task: ends the task's backends and waits up to two seconds for each.
SELECT count(pg_terminate_backend(pid, 2000))::text FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND starts_with(application_name, 'shardplane/' || $1 || '/' || $2)

-- name: identity_state
-- $1 schema, $2 table, $3 index, $4 other identity: the table's identity as d, n, f or i:<index>, where one that has lost its index is n;
-- whether the index is there; is valid; is the identity; whether $4, as i:<index>, names an index of the table that can be its identity.
SELECT CASE WHEN c.relreplident = 'i'
            THEN COALESCE('i:' || (SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                                    WHERE i.indrelid = c.oid AND i.indisreplident), 'n')
            ELSE c.relreplident::text END,
       (t.indexrelid IS NOT NULL)::text, COALESCE(t.indisvalid, false)::text,
       COALESCE(t.indisvalid AND t.indisreplident AND c.relreplident = 'i', false)::text,
       EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND 'i:' || x.relname = $4 AND i.indisunique AND i.indimmediate AND i.indisvalid
                  AND i.indpred IS NULL AND i.indexprs IS NULL
                  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attnum <= i.indnkeyatts
                                     AND NOT (SELECT b.attnotnull FROM pg_attribute b
                                               WHERE b.attrelid = c.oid AND b.attnum = i.indkey[a.attnum - 1])))::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN (SELECT i.* FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE x.relname = $3) t ON t.indrelid = c.oid
 WHERE n.nspname = $1 AND c.relname = $2

-- name: table_size
SELECT pg_relation_filenode(c.oid)::text, (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2

-- name: progress
-- $1 job, $2 attempt: finished ranges of a target.
SELECT table_schema, table_name, range_no::text, rows::text, bytes::text FROM shardplane.copy_progress WHERE job_id = $1 AND attempt = $2::bigint

-- name: slot_state
-- $1 slot: whether it is there, its WAL status, bytes of WAL that it retains, the source's timeline.
SELECT (s.slot_name IS NOT NULL)::text, COALESCE(s.wal_status, ''),
       COALESCE(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint::text,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int::text
  FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1

-- name: drop_slot
-- $1 slot: ends who uses it, then drops it.
SELECT count(CASE WHEN s.active THEN pg_terminate_backend(s.active_pid, 2000) END) || '/' || count(pg_drop_replication_slot(s.slot_name))
  FROM pg_replication_slots s WHERE s.slot_name = $1

-- name: forget_progress
DELETE FROM shardplane.copy_progress WHERE job_id = $1 AND attempt = $2::bigint AND table_schema = $3 AND table_name = $4

-- name: drop_origins
-- $1 job: origins of the job that nobody uses any more.
SELECT count(pg_replication_origin_drop(roname))::text FROM pg_replication_origin WHERE starts_with(roname, 'shp_' || $1 || '_')

-- name: drop_slots
-- $1 job: all slots of the job, whoever uses them.
SELECT count(CASE WHEN s.active THEN pg_terminate_backend(s.active_pid, 2000) END) || '/' || count(pg_drop_replication_slot(s.slot_name))
  FROM pg_replication_slots s WHERE starts_with(s.slot_name, 'shp_' || $1 || '_') AND NOT s.temporary

-- name: forget_job
-- $1 job: progress of the copy, lanes and nonces.
WITH p AS (DELETE FROM shardplane.copy_progress WHERE job_id = $1 RETURNING 1),
     l AS (DELETE FROM shardplane.lane WHERE job_id = $1 RETURNING 1),
     o AS (DELETE FROM shardplane.opened WHERE job_id = $1 RETURNING 1)
SELECT ((SELECT count(*) FROM p) + (SELECT count(*) FROM l) + (SELECT count(*) FROM o))::text

-- name: take_made
-- $1 job: takes the list of what its schema task has made here, in the order of dropping: kind, identity.
WITH gone AS (DELETE FROM shardplane.made WHERE job_id = $1 RETURNING n, kind, identity) SELECT kind, identity FROM gone ORDER BY n

-- name: primary_now
-- $1 keyspace: how far this primary has written, and its ownership row. An error on a standby.
SELECT pg_current_wal_flush_lsn()::text, o::text FROM shardplane.ownership o WHERE o.keyspace = $1

-- name: replica_has
-- $1 keyspace, $2 position, $3 ownership row of its primary: whether this standby has replayed that far and shows the same.
SELECT coalesce(pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= $2::pg_lsn
                AND (SELECT o::text FROM shardplane.ownership o WHERE o.keyspace = $1) = $3, false)::text

-- name: leftovers
SELECT 'slot', slot_name::text FROM pg_replication_slots WHERE starts_with(slot_name, 'shp_') AND NOT temporary AND database = current_database()
UNION ALL SELECT 'publication', pubname::text FROM pg_publication WHERE starts_with(pubname, 'shp_')
UNION ALL SELECT 'origin', roname FROM pg_replication_origin WHERE starts_with(roname, 'shp_')
