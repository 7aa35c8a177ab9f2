"""What the manager removes by itself, what it must leave alone, and connections that it must not keep."""
from harness.rig import SLOW
from harness.sql import query

FOREIGN = "shp_zzzzzzzzzzzz"


def test_only_what_our_own_jobs_made_is_swept(cell):
    """Origins are the whole server's, and another installation may use it too."""
    rig = cell.rig
    cell.split()
    cell.wait("completed")
    cell.finalize()
    rig.reconfigure("manager", **{"manager.sweep_s": 1})
    try:
        for name in (f"{FOREIGN}_other", f"shp_{cell.job_id}_left"):
            cell.sql("b", f"SELECT pg_replication_origin_create('{name}')")
        cell.sql("b", f"SELECT pg_create_physical_replication_slot('{FOREIGN}_1')")
        cell.sql("b", f"CREATE PUBLICATION shp_{cell.job_id}", role="admin")
        rig.lead_with("")

        def left():
            origins = {r[0] for r in cell.sql("b", "SELECT roname FROM pg_replication_origin")}
            return f"shp_{cell.job_id}_left" not in origins and not cell.sql("b", "SELECT FROM pg_publication")

        rig.stack.wait_for("a sweep", left, 20 * SLOW)
        assert cell.sql("b", f"SELECT count(*) FROM pg_replication_origin WHERE roname = '{FOREIGN}_other'") == [(1,)]
        assert cell.sql("b", f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{FOREIGN}_1'") == [(1,)]
        got = rig.api.check(cell.name)
        assert got["ok"], got
    finally:
        cell.sql("b", f"SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname LIKE '{FOREIGN}%'")
        cell.sql("b", f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '{FOREIGN}%'")
        rig.reconfigure("manager")
        rig.lead_with("")


def test_no_connection_is_kept_to_what_is_no_shard(cell):
    """After a dry run with new databases, and after a shard was let go: its owner may drop the database."""
    rig = cell.rig
    rig.reconfigure("manager", **{"manager.sweep_s": 1})
    rig.lead_with("")

    def manager_sessions(letter):
        return query(cell.dsn(letter).replace(f"/{cell.name}", "/postgres"), "SELECT application_name FROM pg_stat_activity WHERE datname = %s "
                     "AND application_name LIKE 'shardplane/%%/manager'", cell.name)

    try:
        rig.api.split(f"{cell.name}-a", [cell.body("b")], dry_run=True)
        cell.register("c")
        rig.stack.wait_for("a sweep of the shard", lambda: ("shardplane/reaper/manager",) in manager_sessions("c") or not manager_sessions("c"), 10 * SLOW)
        rig.api.delete(f"/api/v1/shards/{cell.name}-c")
        for letter in "bc":
            rig.stack.wait_for(f"the manager to leave {letter} ({manager_sessions(letter)})", lambda x=letter: not manager_sessions(x), 10 * SLOW)
    finally:
        rig.reconfigure("manager")
        rig.lead_with("")
