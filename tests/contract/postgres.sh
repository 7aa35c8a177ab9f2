#!/bin/bash
# A PostgreSQL of its own for one contract test, on loopback, as a user that is not root, with the roles of tools/sql/roles.sql.
#   postgres.sh start DIR PORT   makes DIR, starts the server, returns when it answers; database shop, password `test` for all
#   postgres.sh stop DIR         stops it and removes DIR
# Exit code 1 with a line on stderr when PostgreSQL is missing or does not start: a test without it fails, it does not pass.
set -eu
action=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
bin=${PG_BIN:-$(ls -d /usr/lib/postgresql/15/bin /usr/lib/postgresql/*/bin 2>/dev/null | head -n 1)}
[ -x "$bin/initdb" ] || { echo "postgres.sh: no PostgreSQL server found (make deps)" >&2; exit 1; }

as_server() {
    if [ "$(id -u)" = 0 ]; then (cd / && exec runuser -u postgres -- "$@"); else "$@"; fi
}

case $action in
start)
    port=$3
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    trap 'echo "postgres.sh: did not start; see $dir/log" >&2; tail -n 5 "$dir/log" >&2 || true' ERR
    as_server "$bin/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions -A trust >"$dir/initdb.log" 2>&1
    as_server "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 30 -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c fsync=off -c wal_level=logical -c max_prepared_transactions=4 -c shared_buffers=16MB -c max_connections=60" start >/dev/null
    SP_OWNER_PASSWORD=test SP_APP_PASSWORD=test SP_DDL_PASSWORD=test SP_APPLY_PASSWORD=test \
        psql -X -q -v ON_ERROR_STOP=1 -v database=shop -f "$here/../../tools/sql/roles.sql" \
        "host=127.0.0.1 port=$port user=postgres dbname=postgres" >"$dir/roles.log" 2>&1
    ;;
stop)
    as_server "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
    ;;
*)
    echo "usage: postgres.sh start DIR PORT | stop DIR" >&2
    exit 2
    ;;
esac
