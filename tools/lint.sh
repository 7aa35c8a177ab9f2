#!/bin/bash
# Lint: banned calls, format, cppcheck, clang-tidy. `tools/lint.sh [banned|format|cppcheck|tidy]...`; all of them unless told.
# LINT_SECONDS bounds clang-tidy (default 900): files that it did not reach are named, and count as a failure.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
steps=${*:-banned format cppcheck tidy}
failed=0

mapfile -t sources < <(find common services tools tests examples -name '*.c' | sort)
mapfile -t headers < <(find common services tools tests examples -name '*.h' | sort)
[ ${#sources[@]} -gt 0 ] || { echo "lint: no sources"; exit 0; }

need() { command -v "$1" >/dev/null 2>&1 || { echo "lint: $1 is missing (tools/deps.sh lint)"; failed=1; return 1; }; }

# Unbounded copies, hidden state, silent number errors, and shells.
banned() {
    local calls='strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atoll|atof|system|popen|alloca|setjmp|longjmp|tmpnam|mktemp'
    # Comments and strings are blanked first, so that prose about a call is no call.
    local out
    out=$(/usr/bin/python3 - "$calls" "${sources[@]}" "${headers[@]}" <<'PY'
import re, sys
call = re.compile(r"(?<![\w.>])(" + sys.argv[1] + r")\s*\(")
blank = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
for path in sys.argv[2:]:
    text = open(path, encoding="utf-8", errors="replace").read()
    text = blank.sub(lambda m: "\n" * m.group(0).count("\n") or '""', text)
    for number, line in enumerate(text.split("\n"), 1):
        m = call.search(line)
        if m:
            print(f"{path}:{number}: banned call {m.group(1)}()")
PY
    )
    [ -z "$out" ] || { echo "$out"; failed=1; }
    echo "lint: banned calls: $(printf '%s' "$out" | grep -c .) found"
}

format() {
    need clang-format || return
    local out
    out=$(clang-format --dry-run --Werror "${sources[@]}" "${headers[@]}" 2>&1 | grep -E 'error:' | sed 's/: error:.*//' | cut -d: -f1 | sort | uniq -c)
    [ -z "$out" ] || { echo "lint: not formatted (clang-format -i FILE):"; echo "$out"; failed=1; }
    echo "lint: format: $(printf '%s' "$out" | grep -c .) files differ"
}

run_cppcheck() {
    need cppcheck || return
    if cppcheck -q -j 2 --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 --suppress=missingInclude \
        --suppress=unknownMacro --suppress=varFuncNullUB --template='{file}:{line}: {severity}: {message} [{id}]' -I. -I"$BUILD/gen" \
        -Icommon/client common services tools tests examples; then
        echo "lint: cppcheck: clean"
    else
        failed=1
    fi
}

tidy() {
    need clang-tidy || return
    local seconds=${LINT_SECONDS:-900} pc flags done_list
    pc=$(pkg-config --exists msgpack-c && echo msgpack-c || echo msgpack)
    flags="-std=gnu17 -D_GNU_SOURCE -I. -I$BUILD/gen -Icommon/client $(pkg-config --cflags libczmq libzmq "$pc" libpq libcurl jansson libmicrohttpd libsodium)"
    done_list=$(mktemp)
    # shellcheck disable=SC2016
    printf '%s\n' "${sources[@]}" | timeout "$seconds" xargs -P 2 -I{} sh -c \
        'out=$(clang-tidy --quiet "$1" -- $2 2>/dev/null | grep -E "(warning|error):"); [ -z "$out" ] || echo "$out"; echo "$1" >>"$3"' \
        - {} "$flags" "$done_list" | sort -u >"$done_list.out"
    cat "$done_list.out"
    [ ! -s "$done_list.out" ] || failed=1
    local reached
    reached=$(wc -l <"$done_list")
    if [ "$reached" -lt ${#sources[@]} ]; then
        echo "lint: clang-tidy: ran out of $seconds s at $reached of ${#sources[@]} files"
        failed=1
    fi
    echo "lint: clang-tidy: $(wc -l <"$done_list.out") findings"
    rm -f "$done_list" "$done_list.out"
}

for step in $steps; do
    case "$step" in
        banned) banned ;;
        format) format ;;
        cppcheck) run_cppcheck ;;
        tidy) tidy ;;
        *) echo "lint: unknown step $step" >&2; exit 2 ;;
    esac
done
exit $failed
