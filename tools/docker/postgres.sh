#!/bin/bash
# Starts PostgreSQL in a container; on the first start makes the cluster, the database and the roles.
# Passwords come from the environment: POSTGRES_PASSWORD, SP_OWNER_PASSWORD, SP_APP_PASSWORD, SP_DDL_PASSWORD, SP_APPLY_PASSWORD.
set -euo pipefail
pg=/usr/lib/postgresql/15/bin
data=/data/pg

if [ ! -e "$data.made" ]; then
    rm -rf "$data"
    "$pg/initdb" -D "$data" -U postgres -E UTF8 --locale=C.UTF-8 --auth=scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD")
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '*'
unix_socket_directories = '/tmp'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_worker_processes = 16
max_prepared_transactions = 10
max_connections = 200
password_encryption = 'scram-sha-256'
CONF
    cat >"$data/pg_hba.conf" <<HBA
local all         all                                     scram-sha-256
host  all         all                              all    scram-sha-256
host  replication shardplane_apply,shardplane_ddl  all    scram-sha-256
HBA
    # Listening on nothing but the socket until the roles are there, so that nobody meets a half-made server.
    "$pg/pg_ctl" -D "$data" -w -o "-c listen_addresses=''" start
    PGPASSWORD=$POSTGRES_PASSWORD psql -X -q -v ON_ERROR_STOP=1 -v database="${POSTGRES_DB:-shop}" -f /roles.sql \
        -h /tmp -U postgres postgres
    "$pg/pg_ctl" -D "$data" -w -m fast stop
    touch "$data.made"
fi
exec "$pg/postgres" -D "$data"
