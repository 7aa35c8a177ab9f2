-- Roles and privileges that let Shardplane work in a database without any superuser.
--
-- Run once on each PostgreSQL server, as a superuser, with psql 15 or later. It is idempotent, and running it again with
-- other passwords changes them. Passwords come from the environment, because arguments show in `ps`:
--
--   SP_OWNER_PASSWORD=... SP_APP_PASSWORD=... SP_DDL_PASSWORD=... SP_APPLY_PASSWORD=... \
--     psql -X -v ON_ERROR_STOP=1 -v database=shop -v owner=shop_owner -v app=shop_app -f roles.sql "host=... user=postgres"
--
-- Variables (psql -v): database, owner, app, ddl (default shardplane_ddl), apply (default shardplane_apply). With
-- SP_REPLICATOR_PASSWORD set, a role `replicator` for streaming standbys is made as well.
--
-- | role  | is for                                | may                                                            |
-- |-------|---------------------------------------|----------------------------------------------------------------|
-- | owner | migrations; owns database and tables  | everything inside the database                                 |
-- | app   | the application, through the router   | DML; owns nothing, no TRIGGER, so it cannot lift a guard       |
-- | ddl   | Shardplane's admin_endpoint           | what the owner may; end backends; drop any replication slot    |
-- | apply | Shardplane's apply_endpoint           | read and write rows, replicate, keep replication origins       |
--
-- Tables with row level security need BYPASSRLS on `apply` and `ddl`, which is left to the operator:
-- ALTER ROLE shardplane_apply BYPASSRLS;

\set ON_ERROR_STOP on
\if :{?database}
\else
  \set database shop
\endif
\if :{?owner}
\else
  \set owner shop_owner
\endif
\if :{?app}
\else
  \set app shop_app
\endif
\if :{?ddl}
\else
  \set ddl shardplane_ddl
\endif
\if :{?apply}
\else
  \set apply shardplane_apply
\endif
\getenv owner_password SP_OWNER_PASSWORD
\getenv app_password SP_APP_PASSWORD
\getenv ddl_password SP_DDL_PASSWORD
\getenv apply_password SP_APPLY_PASSWORD
\getenv replicator_password SP_REPLICATOR_PASSWORD

-- The server logs statements that fail or are slow: keep the passwords below out of its log.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET client_min_messages = warning;
SET password_encryption = 'scram-sha-256';

-- A superuser would be one no more, perhaps the last that there was; and guards exempt whoever logs in as `apply`.
SELECT format('DO $do$ BEGIN RAISE EXCEPTION %L; END $do$', problem)
FROM (SELECT 'role ' || rolname || ' is a superuser: owner, app, ddl and apply must be roles of their own, for databases with a plain owner' AS problem
        FROM pg_roles WHERE rolsuper AND rolname = ANY (ARRAY[:'owner', :'app', :'ddl', :'apply'])
      UNION ALL
      SELECT 'owner, app, ddl and apply must be four different roles'
        FROM unnest(ARRAY[:'owner', :'app', :'ddl', :'apply']) AS r HAVING count(DISTINCT r) < 4) AS wrong
LIMIT 1
\gexec

SELECT format('CREATE ROLE %I', r)
FROM unnest(ARRAY[:'owner', :'app', :'ddl', :'apply']) AS r
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)
\gexec

\if :{?owner_password}
ALTER ROLE :"owner" LOGIN NOSUPERUSER PASSWORD :'owner_password';
\endif
\if :{?app_password}
ALTER ROLE :"app" LOGIN NOSUPERUSER NOREPLICATION PASSWORD :'app_password';
\endif
\if :{?ddl_password}
ALTER ROLE :"ddl" LOGIN PASSWORD :'ddl_password';
\endif
\if :{?apply_password}
ALTER ROLE :"apply" LOGIN PASSWORD :'apply_password';
\endif

-- REPLICATION: `apply` reads the change stream; `ddl` drops slots, whoever made them.
ALTER ROLE :"ddl" NOSUPERUSER INHERIT REPLICATION;
ALTER ROLE :"apply" NOSUPERUSER INHERIT REPLICATION;

\if :{?replicator_password}
SELECT 'CREATE ROLE replicator' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'replicator')
\gexec
ALTER ROLE replicator LOGIN NOSUPERUSER REPLICATION PASSWORD :'replicator_password';
\endif

-- The owner's rights, without its password; other roles' backends may be ended, superusers' may not.
GRANT :"owner" TO :"ddl";
GRANT pg_signal_backend, pg_monitor, pg_read_all_data TO :"ddl";
GRANT pg_monitor, pg_read_all_data, pg_write_all_data TO :"apply";

-- Rows that are copied or applied must not fire the user's triggers a second time.
GRANT SET ON PARAMETER session_replication_role TO :"apply";
GRANT SET ON PARAMETER session_replication_role TO :"ddl";
-- Inside the fence, autovacuum must yield at once (its own deadlock_timeout is small).
GRANT SET ON PARAMETER deadlock_timeout TO :"ddl", :"apply";

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L', :'database', :'owner', 'UTF8')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

GRANT CONNECT, CREATE, TEMPORARY ON DATABASE :"database" TO :"ddl";
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"apply";
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"app";

\connect :"database"
SET client_min_messages = warning;

-- Replication origins are kept by functions that only superusers may call until told otherwise. These live in pg_catalog
-- of this database, so the grants must be repeated in each database.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, r)
FROM pg_proc p, unnest(ARRAY[:'apply', :'ddl']) AS r
WHERE p.pronamespace = 'pg_catalog'::regnamespace
  AND p.proname IN ('pg_replication_origin_create', 'pg_replication_origin_drop', 'pg_replication_origin_oid',
                    'pg_replication_origin_session_setup', 'pg_replication_origin_session_reset',
                    'pg_replication_origin_session_is_setup', 'pg_replication_origin_session_progress',
                    'pg_replication_origin_xact_setup', 'pg_replication_origin_xact_reset',
                    'pg_replication_origin_advance', 'pg_replication_origin_progress',
                    'pg_show_replication_origin_status')
\gexec
GRANT SELECT ON pg_catalog.pg_replication_origin_status TO :"apply", :"ddl";

-- The application reads and writes what the owner makes, in any schema, and owns none of it. No default privileges are
-- given on what `ddl` makes under its own name: that is schema `shardplane`, which an application must not write.
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, :'app')
FROM pg_namespace
WHERE nspname = 'public' OR nspowner = (SELECT oid FROM pg_roles WHERE rolname = :'owner')
\gexec
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE ON SCHEMAS TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO :"app";
-- The same for tables that were there before.
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO %I', c.oid::regclass, :'app')
FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND c.relowner = (SELECT oid FROM pg_roles WHERE rolname = :'owner')
\gexec
SELECT format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO %I', c.oid::regclass, :'app')
FROM pg_class c
WHERE c.relkind = 'S' AND c.relowner = (SELECT oid FROM pg_roles WHERE rolname = :'owner')
\gexec
