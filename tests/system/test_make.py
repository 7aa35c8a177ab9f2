"""The Makefile as its users know it."""
import os
import subprocess

import pytest

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
KNOWN = ("build test demo bench up down status lint fuzz docs install clean deps run-router run-manager run-resharder run-health "
         "run-gateway docker-build docker-up docker-logs docker-down").split()


def make(*args, env=None):
    # What the make that runs this test hands down would change this one's mind.
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "SAN", "BUILD")}
    done = subprocess.run(["make", "-C", REPO, "--no-print-directory", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False, timeout=120, env={**inherited, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def test_help_has_a_line_for_each_target():
    code, out, _ = make("help")
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert code == 0 and not set(KNOWN) - listed, set(KNOWN) - listed


def test_targets_that_compile_nothing_install_nothing(tmp_path):
    for target in ("help", "status", "down", "clean"):
        assert make(target, f"BUILD={tmp_path}/build", f"DOWN=--dir {tmp_path}/stack")[0] == 0
        assert not os.path.exists(tmp_path / "build" / "deps.mk"), target


@pytest.mark.parametrize("goals", [("build",), ("deps", "build"), ("clean", "build"), ("clean", "test")])
def test_whatever_else_is_asked_for_the_compiler_finds_the_headers(tmp_path, goals):
    code, out, err = make("-n", f"BUILD={tmp_path}/build", *goals)
    compiled = [line for line in out.splitlines() if " -c " in line and "services/router/pools.c" in line]
    assert code == 0 and compiled and "/postgresql" in compiled[0], (compiled, err[-500:])


def test_an_unknown_sanitizer_is_refused(tmp_path):
    code, _, err = make("-n", "build", f"BUILD={tmp_path}/build", "SAN=addres")
    assert code == 2 and "asan and tsan are known" in err


def test_the_container_targets_take_what_there_is(tmp_path):
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert make("-n", "docker-build", env={"PATH": path})[1].strip() == "docker-compose build"
    (tmp_path / "docker").write_text("#!/bin/sh\necho Docker Compose version v2\n")
    assert make("-n", "docker-build", env={"PATH": path})[1].strip() == "docker compose build"
