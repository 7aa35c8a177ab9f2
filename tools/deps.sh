#!/bin/bash
# Installs what build, tests and demo need: from Debian's packages, only what is missing, without a question and, when nothing
# is missing, without a word. `tools/deps.sh lint` adds the linters, `fuzz` the fuzzer, `tools/deps.sh list` prints the packages.
# Without apt it says what is missing, by the names that pkg-config and the shell know, and exits 1.
set -u

# One requirement a line: Debian packages (first choice first, `|` between alternatives), then how it shows without dpkg:
# cmd:NAME, pkg:MODULE[,MODULE] (any), py:MODULE for /usr/bin/python3, server: where tools/localstack looks for PostgreSQL's.
base='
gcc cmd:gcc
make cmd:make
libc6-dev -
pkg-config|pkgconf cmd:pkg-config
libczmq-dev pkg:libczmq
libzmq3-dev pkg:libzmq
libmsgpack-dev|libmsgpack-c-dev pkg:msgpack-c,msgpack
libpq-dev pkg:libpq
libcurl4-openssl-dev|libcurl4-gnutls-dev|libcurl4-nss-dev pkg:libcurl
libjansson-dev pkg:jansson
libmicrohttpd-dev pkg:libmicrohttpd
libsodium-dev pkg:libsodium
libcmocka-dev pkg:cmocka
etcd-server cmd:etcd
postgresql-15|postgresql server
postgresql-client-15|postgresql-client cmd:psql
python3 cmd:python3
python3-pytest py:pytest
python3-pytest-xdist py:xdist
python3-zmq py:zmq
python3-msgpack py:msgpack
python3-psycopg2 py:psycopg2
'
lint='
clang-format cmd:clang-format
clang-tidy cmd:clang-tidy
cppcheck cmd:cppcheck
'
fuzz='
clang cmd:clang
libclang-rt-14-dev|libclang-rt-dev -
'

case "${1:-}" in
    '') rows=$base ;;
    lint) rows=$base$lint ;;
    fuzz) rows=$base$fuzz ;;
    list) echo "$base$lint$fuzz" | sed -n 's/^\([^ |]*\).*/\1/p'; exit 0 ;;
    *) echo "usage: tools/deps.sh [lint|fuzz|list]" >&2; exit 2 ;;
esac

shows() { # how -> 0 when the requirement is there
    case "$1" in
        -) return 0 ;;
        cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 ;;
        pkg:*) local m
               for m in $(echo "${1#pkg:}" | tr , ' '); do pkg-config --exists "$m" 2>/dev/null && return 0; done; return 1 ;;
        server) local dir
                for dir in ${PG_BIN:-} /usr/lib/postgresql/*/bin; do [ -x "$dir/initdb" ] && return 0; done
                command -v initdb >/dev/null 2>&1 ;;
        py:*) /usr/bin/python3 -c "import ${1#py:}" >/dev/null 2>&1 ;;
    esac
}

installed() { # packages -> 0 when one of the alternatives is installed
    local p
    for p in $(echo "$1" | tr '|' ' '); do
        case "$(dpkg-query -W -f='${db:Status-Abbrev}' "$p" 2>/dev/null)" in ii*) return 0 ;; esac
    done
    return 1
}

have_apt=0
command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1 && have_apt=1

missing=''
while read -r packages how; do
    [ -n "$packages" ] || continue
    if [ "$have_apt" = 1 ]; then
        installed "$packages" || missing="$missing $packages"
    else
        shows "$how" || missing="$missing $packages($how)"
    fi
done <<<"$rows"
[ -n "$missing" ] || exit 0

if [ "$have_apt" = 0 ]; then
    {
        echo "There is no apt-get here, so these must be installed by hand (Debian's names, and how each is looked for):"
        for m in $missing; do echo "  $m" | sed 's/(/   (/'; done
    } >&2
    exit 1
fi

as_root=''
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: not root, and there is no sudo; as root run: apt-get install$(echo "$missing" | sed 's/|[^ ]*//g')" >&2
        exit 1
    fi
    as_root='sudo -n'
    # -n: never asks; a sudo that wants a password fails with a message instead of hanging.
fi

candidate() { [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \(.*\)/\1/p' | grep -v '(none)')" ]; }

choose() { # sets `chosen`; 1 when a requirement has no candidate
    local m p found
    chosen=''
    for m in $missing; do
        found=''
        for p in $(echo "$m" | tr '|' ' '); do
            if candidate "$p"; then found=$p; break; fi
        done
        [ -n "$found" ] || { unavailable=$m; return 1; }
        chosen="$chosen $found"
    done
}

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=''
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || $as_root rm -f "$policy"
}
trap cleanup EXIT

# The packages of etcd and PostgreSQL would start servers of their own on the ports that `make up` uses.
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root sh -c "cat >$policy && chmod 755 $policy" && made_policy=1
fi

apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confold "$@" >>"$log" 2>&1; }

echo "deps: installing$(echo "$missing" | sed 's/|[^ ]*//g')"
if ! choose || ! apt install --no-install-recommends $chosen; then
    # Lists that are old or were never fetched are the usual reason.
    if ! apt update || ! choose || ! apt install --no-install-recommends $chosen; then
        echo "deps: failed${unavailable:+ (no package for $unavailable)}; apt-get said:" >&2
        tail -n 20 "$log" >&2
        [ -z "$as_root" ] || echo "deps: or, as root: apt-get install$(echo "$missing" | sed 's/|[^ ]*//g')" >&2
        exit 1
    fi
fi
