-- What the manager asks of shards.

-- name: identity
SELECT (pg_control_system()).system_identifier::text, current_database(), session_user,
       pg_is_in_recovery(), r.rolreplication OR r.rolsuper, r.rolsuper, r.rolcreaterole OR r.rolsuper,
       current_setting('server_version_num')
  FROM pg_roles r WHERE r.rolname = session_user

-- name: quiet
SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1

-- name: apply_role_secret
-- The password goes into a setting of this session, because DO takes no parameters.
SELECT length(set_config('shardplane.secret', $1, false))

-- name: apply_role_make
DO $$
DECLARE
    secret text := current_setting('shardplane.secret');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shardplane_apply') THEN
        CREATE ROLE shardplane_apply;
        COMMENT ON ROLE shardplane_apply IS 'made by Shardplane';
    ELSIF NOT EXISTS (SELECT FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid AND d.classoid = 'pg_authid'::regclass
                       WHERE r.rolname = 'shardplane_apply' AND d.description = 'made by Shardplane') THEN
        RAISE EXCEPTION 'role shardplane_apply exists and was not made by Shardplane, so its password is not known';
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
