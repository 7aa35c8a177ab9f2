"""How much memory a process uses."""


def memory_kb(pid, field):
    """A field of /proc/PID/status in kB: VmRSS for what it has now, VmHWM for the most it ever had."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field + ":"))
