"""PostgreSQL clusters of a stack: a primary a shard, and streaming replicas made by pg_basebackup."""
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

from .procs import PidFile, StackError, spawn, wait_until

DATABASE = "shop"
ROLES_SQL = os.path.join(os.path.dirname(__file__), "..", "..", "sql", "roles.sql")

CONF = """
# written by tools/localstack
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
cluster_name = '{name}'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_worker_processes = 16
max_logical_replication_workers = 8
max_prepared_transactions = 10
max_connections = 200
shared_buffers = 128MB
fsync = {fsync}
hot_standby = on
hot_standby_feedback = on
wal_keep_size = 256MB
max_wal_size = 2GB
password_encryption = 'scram-sha-256'
log_line_prefix = '%m [%p] %q%u@%d %a '
log_lock_waits = on
log_timezone = 'UTC'
timezone = 'UTC'
"""

HBA = """# written by tools/localstack
host all             all          127.0.0.1/32 scram-sha-256
host replication     replicator,shardplane_apply,shardplane_ddl,postgres 127.0.0.1/32 scram-sha-256
"""


def bin_dir():
    """The oldest installed PostgreSQL's programs that are of 15 or later, because 15 is what everything is tested with."""
    told = os.environ.get("PG_BIN")
    if told:
        if not os.access(os.path.join(told, "initdb"), os.X_OK):
            raise StackError(f"PG_BIN is {told}, and there is no initdb in it")
        return told
    found = []
    for path in glob.glob("/usr/lib/postgresql/*/bin"):
        version = path.split("/")[4]
        if version.isdigit() and int(version) >= 15 and os.path.exists(os.path.join(path, "initdb")):
            found.append((int(version), path))
    if found:
        return min(found)[1]
    on_path = shutil.which("initdb")
    if on_path:
        return os.path.dirname(os.path.realpath(on_path))
    raise StackError("no PostgreSQL 15 server found: run `make deps`, or set PG_BIN to the folder of initdb")


def server_user():
    """Whom PostgreSQL runs as: it refuses root. None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")


def can_reach(path, user):
    """Whether `user` may walk down to `path` (other-execute or ownership on each folder)."""
    path = os.path.abspath(path)
    while True:
        st = os.stat(path)
        if not (st.st_mode & 0o001 or (st.st_uid == user.pw_uid and st.st_mode & 0o100)):
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def data_root(paths):
    """`<dir>/pg`, owned by whom the servers run as. Below a folder that this user cannot enter (a checkout under /root), the
    data live in /var/tmp and `<dir>/pg` is a link there."""
    root = paths.join("pg")
    user = server_user()
    if not os.path.exists(root):
        if os.path.islink(root):
            os.unlink(root)
        if user is None or can_reach(paths.root, user):
            os.mkdir(root, 0o700)
        else:
            os.symlink(tempfile.mkdtemp(prefix="shardplane-pg-", dir="/var/tmp"), root)
        if user is not None:
            os.chown(root, user.pw_uid, user.pw_gid)
    return root


def purge_data_root(paths):
    root = paths.join("pg")
    if os.path.islink(root):
        shutil.rmtree(os.path.realpath(root), ignore_errors=True)
        os.unlink(root)
    else:
        shutil.rmtree(root, ignore_errors=True)


class Cluster:
    """One server process and its data folder."""

    def __init__(self, paths, record, passwords, fsync=True):
        self.name = record["name"]
        self.port = record["port"]
        self.upstream = record.get("upstream")  # a replica's primary's port
        self.fsync = fsync
        self.passwords = passwords
        self.root = paths.join("pg")
        self.log = paths.join("log", f"postgres-{self.name}.log")
        self.pidfile = PidFile(paths.join("run", f"postgres-{self.name}.pid"))
        self.user = server_user()

    @property
    def data(self):
        # Resolved each time: the link exists only once data_root() has run, and the server may not walk through it.
        return os.path.join(os.path.realpath(self.root), self.name)

    def run(self, argv, env=None):
        """Runs one of PostgreSQL's programs to its end as the servers' user."""
        kwargs = {}
        if self.user is not None:
            kwargs = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        done = subprocess.run([os.path.join(bin_dir(), argv[0])] + argv[1:], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                              env={**os.environ, **(env or {})}, check=False, **kwargs)
        if done.returncode != 0:
            raise StackError(f"{argv[0]} for {self.name} failed ({done.returncode}):\n{done.stdout}")

    def made(self):
        """Whether the data folder was made to its end; what an interrupted run left is not taken for a cluster."""
        return os.path.exists(self.data + ".made")

    def mark_made(self):
        with open(self.data + ".made", "w", encoding="ascii"):
            pass

    def clear(self):
        self.pidfile.stop(signal.SIGKILL)
        shutil.rmtree(self.data, ignore_errors=True)

    def append_conf(self, extra=""):
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as f:
            f.write(CONF.format(port=self.port, name=self.name, fsync="on" if self.fsync else "off") + extra)

    def initdb(self):
        """A fresh cluster. Each has a system identifier of its own, by which one database under two names is noticed."""
        pwfile = self.data + ".pw"
        fd = os.open(pwfile, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as f:
            f.write(self.passwords["postgres"] + "\n")
        if self.user is not None:
            os.chown(pwfile, self.user.pw_uid, self.user.pw_gid)
        try:
            self.run(["initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
                      "--no-instructions", "--auth=scram-sha-256", "--pwfile", pwfile])
        finally:
            os.unlink(pwfile)
        self.append_conf()
        with open(os.path.join(self.data, "pg_hba.conf"), "w", encoding="utf-8") as f:
            f.write(HBA)

    def basebackup(self):
        """A standby of the upstream port."""
        self.run(["pg_basebackup", "-D", self.data, "-h", "127.0.0.1", "-p", str(self.upstream), "-U", "replicator",
                  "-X", "stream", "-c", "fast", "--no-sync"],
                 {"PGPASSWORD": self.passwords["replicator"]})
        self.append_conf(
            f"primary_conninfo = 'host=127.0.0.1 port={self.upstream} user=replicator "
            f"password={self.passwords['replicator']} application_name={self.name}'\n")
        with open(os.path.join(self.data, "standby.signal"), "w", encoding="ascii"):
            pass
        if self.user is not None:
            os.chown(os.path.join(self.data, "standby.signal"), self.user.pw_uid, self.user.pw_gid)

    def spawn(self):
        if self.pidfile.pid() is None:
            spawn([os.path.join(bin_dir(), "postgres"), "-D", self.data], self.log, self.pidfile, user=self.user, cwd="/")

    def ready(self):
        """What pg_ctl -w looks at: the eighth line of postmaster.pid, written by the very process that we started."""
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="ascii") as f:
                lines = f.read().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pidfile.pid()) and lines[7].strip() == "ready"

    def wait(self, seconds=30.0):
        wait_until(f"PostgreSQL {self.name}", self.ready, seconds, self.log, self.pidfile)

    def start(self):
        """Starts and waits. After a SIGKILL the old backends may hold the shared memory for a moment: tried again."""
        for attempt in range(20):
            self.spawn()
            try:
                self.wait()
                return
            except StackError:
                if attempt == 19 or self.pidfile.pid() is not None:
                    raise
            time.sleep(0.25)

    def stop(self, mode="fast"):
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        if mode not in signals:
            raise StackError(f"unknown mode {mode}: one of {', '.join(signals)}")
        self.pidfile.stop(signals[mode], 20.0)

    def uri(self, role, database=DATABASE):
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/{database}"

    def make_roles(self, database=DATABASE):
        """Runs tools/sql/roles.sql as the bootstrap superuser: makes the roles, the database and its grants."""
        env = {"PGPASSWORD": self.passwords["postgres"]}
        for role, variable in (("shop_owner", "OWNER"), ("shop_app", "APP"), ("shardplane_ddl", "DDL"),
                               ("shardplane_apply", "APPLY"), ("replicator", "REPLICATOR")):
            env[f"SP_{variable}_PASSWORD"] = self.passwords[role]
        done = subprocess.run(
            [os.path.join(bin_dir(), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"database={database}",
             "-v", "owner=shop_owner", "-v", "app=shop_app", "-f", ROLES_SQL, "-h", "127.0.0.1", "-p", str(self.port),
             "-U", "postgres", "postgres"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env={**os.environ, **env})
        if done.returncode != 0:
            raise StackError(f"tools/sql/roles.sql failed on {self.name}:\n{done.stdout}")
