"""Processes known by a pid file that also names their start time, so that a reused pid is never taken for ours."""
import contextlib
import os
import signal
import subprocess
import threading
import time


class StackError(Exception):
    """A message for the user; no traceback is wanted."""


def start_time(pid):
    """The kernel's start time of a live process in clock ticks, or None if there is none (a zombie counts as none)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            rest = f.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    if rest[0] in (b"Z", b"X"):
        return None
    return int(rest[19])


class PidFile:
    """`<pid> <start time>` in a file. Everything else here asks alive() first."""

    def __init__(self, path):
        self.path = path

    def read(self):
        """(pid, start time) or None."""
        try:
            with open(self.path, encoding="ascii") as f:
                pid, started = f.read().split()
            return int(pid), int(started)
        except (OSError, ValueError):
            return None

    def pid(self):
        """The pid if that very process is alive, else None."""
        found = self.read()
        if found and start_time(found[0]) == found[1]:
            return found[0]
        return None

    def write(self, pid):
        started = start_time(pid)
        if started is None:
            return
        tmp = self.path + ".tmp"
        with open(tmp, "w", encoding="ascii") as f:
            f.write(f"{pid} {started}\n")
        os.replace(tmp, self.path)

    def remove(self):
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def send(self, sig):
        """Signals the process if it is ours and alive; says whether it was."""
        pid = self.pid()
        if pid is None:
            return False
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, seconds):
        deadline = time.monotonic() + seconds
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def stop(self, sig=signal.SIGTERM, seconds=10.0):
        """Asks, waits, then kills. A stopped (SIGSTOP) process is continued first, or it could not obey."""
        if self.send(sig):
            self.send(signal.SIGCONT)
            if not self.wait_gone(seconds):
                self.send(signal.SIGKILL)
                self.wait_gone(5.0)
        self.remove()


_children = []  # Popen objects of a long-lived importer (pytest): polled, so that they don't stay zombies


def reap():
    """Collects the exit codes of children that ended."""
    _children[:] = [c for c in _children if c.poll() is None]


@contextlib.contextmanager
def uninterrupted():
    """Puts off Ctrl-C, SIGTERM and SIGHUP, where they have a handler: a process is never started without its pid file."""
    handlers, came = {}, []
    if threading.current_thread() is threading.main_thread():
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        handlers = {s: h for s, h in handlers.items() if callable(h)}
    for s in handlers:
        signal.signal(s, lambda *args: came.append(args))
    try:
        yield
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
        if came:
            handlers[came[0][0]](*came[0])


def spawn(argv, log, pidfile, env=None, user=None, cwd=None):
    """Starts a daemon in a session of its own with its output appended to `log`; returns the pid."""
    reap()
    kwargs = {}
    if user is not None and os.geteuid() == 0:
        kwargs = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with open(log, "ab", buffering=0) as out, uninterrupted():
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd,
                                     start_new_session=True, close_fds=True, **kwargs)
        except OSError as e:
            raise StackError(f"{argv[0]} cannot be started: {e.strerror} (`make deps` installs what is needed)") from None
        _children.append(child)
        pidfile.write(child.pid)
    return child.pid


def tail(path, lines=15):
    """The last lines of a log, indented for an error message."""
    try:
        with open(path, "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 16384))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return "    (no log)"
    return "\n".join("    " + line for line in text.splitlines()[-lines:]) or "    (empty log)"


def wait_until(what, check, seconds, log=None, pidfile=None):
    """Polls check() until it is true; on a deadline or a dead process raises StackError with the log's tail."""
    deadline = time.monotonic() + seconds
    while True:
        if check():
            return
        reap()
        dead = pidfile is not None and pidfile.pid() is None
        if dead or time.monotonic() > deadline:
            why = "ended early" if dead else f"was not ready within {seconds:g} s"
            shown = f"; end of {log}:\n{tail(log)}" if log else ""
            raise StackError(f"{what} {why}{shown}")
        time.sleep(0.02)
