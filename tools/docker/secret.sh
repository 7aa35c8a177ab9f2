#!/bin/bash
# Makes the key that seals DSNs in etcd, once: 32 random bytes, hex, one line, readable by its owner only.
set -euo pipefail
file=${1:-/run/shardplane/secret.key}
[ ! -e "$file" ] || exit 0
umask 077
od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$file.tmp"
echo >>"$file.tmp"
mv "$file.tmp" "$file"
