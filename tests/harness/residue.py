"""What a database holds besides rows: compared before and after a job (invariant I6)."""
import psycopg2

# One text a thing. Function bodies and guard contents are not part of it: ownership changes replace them.
OBJECTS = """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
UNION ALL
SELECT 'relation ' || c.relkind::text || ' ' || c.oid::regclass::text || ' identity ' || c.relreplident::text || ' persistence ' || c.relpersistence::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass::text || ' ' || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'constraint ' || conname || ' on ' || conrelid::regclass::text || CASE WHEN convalidated THEN '' ELSE ' NOT VALID' END
  FROM pg_constraint WHERE conrelid <> 0
UNION ALL
SELECT 'function ' || p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'type ' || t.oid::regtype::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND t.typtype IN ('e', 'd', 'r')
UNION ALL
SELECT 'publication ' || pubname FROM pg_publication
UNION ALL
SELECT 'subscription ' || subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL
SELECT 'origin ' || roname FROM pg_replication_origin
UNION ALL
SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts WHERE database = current_database()
"""

# Rows of a job in schema shardplane, and sessions that still hold something.
LIVE = """
SELECT 'session ' || application_name || ' ' || state || ' ' || left(query, 60) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name ~ '^shardplane/[a-z2-7]{12}/' AND pid <> pg_backend_pid()
"""
JOB_TABLES = ("copy_progress", "lane", "opened", "made")


def objects(dsn):
    """The set of everything in the database, each as a line of text."""
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(OBJECTS)
            return {row[0] for row in cursor.fetchall()}
    finally:
        connection.close()


def live(dsn, tables=JOB_TABLES):
    """Sessions of jobs, and rows that a finished job should have taken along."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(LIVE)
            found = {row[0] for row in cursor.fetchall()}
            for table in tables:
                cursor.execute("SELECT to_regclass(%s)", (f"shardplane.{table}",))
                if cursor.fetchone()[0]:
                    cursor.execute(f"SELECT count(*) FROM shardplane.{table}")
                    if cursor.fetchone()[0]:
                        found.add(f"rows in shardplane.{table}")
            return found
    finally:
        connection.close()


def difference(before, after):
    """Lines for an assertion's message: what was added and what is missing."""
    return sorted(f"+ {x}" for x in after - before) + sorted(f"- {x}" for x in before - after)
