-- Schema shardplane: what lives inside each shard. Run by the DDL role in one transaction; may be run again.
-- name: owner_schema
CREATE SCHEMA IF NOT EXISTS shardplane;
GRANT USAGE ON SCHEMA shardplane TO PUBLIC;

-- One row: whose database this is, and the highest epoch that was seen.
CREATE TABLE IF NOT EXISTS shardplane.control (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation bigint NOT NULL,
    epoch bigint NOT NULL,
    cluster_id text NOT NULL,
    shard_id text NOT NULL,
    keyspace text NOT NULL,
    apply_role text NOT NULL
);

-- One row a keyspace: what assert_owner and a new leader read. The guards carry the same in their bodies.
CREATE TABLE IF NOT EXISTS shardplane.ownership (
    keyspace text PRIMARY KEY,
    ring_version bigint NOT NULL,
    bounds bigint[] NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'sealed', 'armed')),
    job_id text NOT NULL DEFAULT '',
    attempt bigint NOT NULL DEFAULT 0,
    nonce text NOT NULL DEFAULT ''
);

-- An armed target is open once its nonce is here.
CREATE TABLE IF NOT EXISTS shardplane.opened (
    nonce text PRIMARY KEY,
    job_id text NOT NULL,
    ring_version bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now()
);

-- One row a finished copy range, committed with its rows.
CREATE TABLE IF NOT EXISTS shardplane.copy_progress (
    job_id text NOT NULL,
    attempt bigint NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    range_no bigint NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, attempt, table_schema, table_name, range_no)
);

-- One row an object that a job has made here, in the order of dropping, committed with the objects. The DDL role hands it to DROP, so nobody
-- else may write it, not even by pg_write_all_data, which the apply role has.
CREATE TABLE IF NOT EXISTS shardplane.made (
    job_id text NOT NULL,
    n bigint NOT NULL,
    kind text NOT NULL,
    identity text NOT NULL,
    PRIMARY KEY (job_id, n)
);
CREATE OR REPLACE FUNCTION shardplane.made_by_owner() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF NOT pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RAISE insufficient_privilege USING MESSAGE = 'permission denied for table made';
    END IF;
    RETURN NULL;
END $body$;
CREATE OR REPLACE TRIGGER made_by_owner BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON shardplane.made
    FOR EACH STATEMENT EXECUTE FUNCTION shardplane.made_by_owner();
ALTER TABLE shardplane.made ENABLE ALWAYS TRIGGER made_by_owner;

-- One row an apply lane: gives a lane without changes a transaction with an xid.
CREATE TABLE IF NOT EXISTS shardplane.lane (
    job_id text NOT NULL,
    origin text NOT NULL,
    applied_lsn pg_lsn NOT NULL,
    PRIMARY KEY (job_id, origin)
);

-- Idempotency: a sharded table with the key column `key`, so that it moves with its rows.
CREATE TABLE IF NOT EXISTS shardplane.requests (
    key text NOT NULL,
    request_id text NOT NULL,
    body_hash text NOT NULL,
    reply bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key, request_id)
);

GRANT SELECT ON shardplane.ownership, shardplane.opened TO PUBLIC;

-- name: owner_assert
-- Raises SHP01 unless this shard owns the key (its canonical text) now. Call it last in a transaction. READ COMMITTED reads the row with a fresh
-- snapshot; other isolation levels lock it, so that a snapshot from before an ownership change fails (40001) instead of reading the past, and a
-- change that is under way refuses (in_transition).
-- SECURITY DEFINER only for that lock.
CREATE OR REPLACE FUNCTION shardplane.assert_owner(keyspace text, key text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    r record;
    h bigint := hashtextextended(assert_owner.key, 0);
    reason text;
BEGIN
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        SELECT o.ring_version, o.state, o.bounds, o.nonce INTO r
          FROM shardplane.ownership o WHERE o.keyspace = assert_owner.keyspace;
    ELSE
        -- Who changes the row may be a seal, which waits for tables that this transaction has written: never wait for it in turn. And
        -- whoever waits for the table comes first: sharers of a row alone let each other pass for ever.
        BEGIN
            LOCK TABLE shardplane.ownership IN ROW SHARE MODE NOWAIT;
            SELECT o.ring_version, o.state, o.bounds, o.nonce INTO r
              FROM shardplane.ownership o WHERE o.keyspace = assert_owner.keyspace FOR SHARE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            SELECT o.ring_version, o.state, o.bounds, o.nonce INTO r
              FROM shardplane.ownership o WHERE o.keyspace = assert_owner.keyspace;
            reason := 'in_transition';
        END;
    END IF;
    IF reason IS NOT NULL THEN
        NULL; -- refused already
    ELSIF NOT FOUND THEN
        reason := 'not_owner';
    ELSIF COALESCE(width_bucket(h, r.bounds) % 2, 0) <> 1 THEN
        reason := CASE r.state WHEN 'sealed' THEN 'in_transition' ELSE 'not_owner' END;
    ELSIF r.state = 'armed' AND NOT EXISTS (SELECT FROM shardplane.opened o WHERE o.nonce = r.nonce) THEN
        reason := 'in_transition';
    ELSE
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'SHP01',
        MESSAGE = 'shardplane: this shard does not own the key (' || reason || ')',
        DETAIL = format('{"reason":"%s","hash":%s,"ring_version":%s,"keyspace":%s}', reason,
                        CASE WHEN h IS NULL THEN 'null' ELSE '"' || h || '"' END, COALESCE(r.ring_version, 0),
                        to_json(assert_owner.keyspace));
END $body$;
GRANT EXECUTE ON FUNCTION shardplane.assert_owner(text, text) TO PUBLIC;

-- name: owner_grant_app
-- Replies hold rows of the application's tables: they are for the role that routers connect as, and for nobody else.
REVOKE ALL ON shardplane.requests FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON shardplane.requests TO %1$s;

-- name: owner_grant_apply
-- The placeholder is the apply role, quoted.
GRANT SELECT, UPDATE ON shardplane.control TO %1$s;
GRANT SELECT, INSERT, UPDATE, DELETE ON shardplane.opened, shardplane.copy_progress, shardplane.lane, shardplane.requests TO %1$s;
