"""The rows of the suite: what runs, in which group, and how its time is told.

A command is words. Of those, "kernels" is the program of bench/guest, {dir} the folder that it and
its helpers are in, and @NAME a program of a Debian package; each way of running puts its own paths.
"""

import dataclasses

INTEGER = "integer and pointer"
FLOAT = "floating point and SIMD"
SYSTEM = "system calls, pipes, signals"
PROCESS = "fork, exec, page faults"
OTHER = "other"
GROUPS = [INTEGER, FLOAT, SYSTEM, PROCESS, OTHER]


@dataclasses.dataclass(frozen=True)
class Work:
    name: str
    group: str
    command: str
    checked: bool = True  # the checksum is the same on every machine


def kernel(group, name, amount, *arguments, row=None):
    """A work of bench/guest; amounts take 0.1 to 0.3 s on the host."""
    return Work(row or name, group, " ".join(["kernels", name, str(amount), *arguments]))


WORKS = [
    kernel(INTEGER, "sort", 25),
    kernel(INTEGER, "hash", 35),
    kernel(INTEGER, "tree", 25),
    kernel(INTEGER, "interpret", 50000),
    kernel(INTEGER, "fib", 37),
    kernel(INTEGER, "dispatch", 50000),
    kernel(INTEGER, "divide", 600),
    kernel(INTEGER, "chase", 1000),
    kernel(INTEGER, "string", 1000),
    kernel(INTEGER, "crc32", 800),
    kernel(INTEGER, "sha256", 200),
    kernel(FLOAT, "matmul", 70),
    kernel(FLOAT, "libm", 1000),
    kernel(FLOAT, "nbody", 700),
    kernel(FLOAT, "saxpy", 80000),
    kernel(FLOAT, "copy-small", 15000),
    kernel(FLOAT, "copy-large", 300),
    kernel(SYSTEM, "getpid", 1500),
    kernel(SYSTEM, "files", 12000),
    kernel(SYSTEM, "pipe", 20),
    kernel(SYSTEM, "signal", 50),
    kernel(PROCESS, "fork", 1200),
    kernel(PROCESS, "exec", 400, "{dir}/small"),
    kernel(PROCESS, "exec", 100, "{dir}/small-dynamic", row="exec-dynamic"),
    kernel(PROCESS, "fault", 70),
    kernel(PROCESS, "cow", 500),
    kernel(OTHER, "mutex", 1500),
    kernel(OTHER, "futex", 100),
    kernel(OTHER, "thread", 5000),
    kernel(OTHER, "atomic", 8000),
    kernel(OTHER, "modify", 150),
    kernel(OTHER, "generate", 100),
]


def select(names, groups):
    """The rows that the words of the command line name; all, if there are none."""
    if not names and not groups:
        return WORKS
    known = {w.name for w in WORKS}
    unknown = set(names) - known or {g for g in groups if not any(map_group(g))}
    if unknown:
        raise SystemExit(f"bench: no such row or group: {', '.join(sorted(unknown))}; "
                         f"rows are {', '.join(w.name for w in WORKS)}")
    chosen = [g for word in groups for g in map_group(word)]
    return [w for w in WORKS if w.name in names or w.group in chosen]


def map_group(word):
    """The groups whose name starts with a word."""
    return [g for g in GROUPS if g.startswith(word)]
