"""The rows of the suite: what runs, in which group, and how its time is told.

A command is words. Of those, {dir} becomes the folder of the program of bench/guest and its helpers,
{sources} that of its sources, @NAME the command of a Debian package's program and {NAME} the folder
that package is in: each way of running puts its own paths.
"""

import dataclasses
import re
from typing import Callable

INTEGER = "integer and pointer"
FLOAT = "floating point and SIMD"
SYSTEM = "system calls, pipes, signals"
PROCESS = "fork, exec, page faults"
OTHER = "other"
GROUPS = [INTEGER, FLOAT, SYSTEM, PROCESS, OTHER]

BOOT, CYCLE, MAKE = "boot", "power-cycle", "make"  # rows that have floors of their own


@dataclasses.dataclass(frozen=True)
class Work:
    name: str
    group: str
    command: str = ""  # none: the row is about the whole machine
    checked: bool = False  # the checksum is the same on every machine
    vcpus: int = 1
    seconds: Callable[[str], float] | None = None  # tells the time from the output

    @property
    def programs(self):
        return re.findall(r"@([a-z0-9-]+)", self.command)


def kernel(group, name, amount, *arguments, row=None):
    """A work of bench/guest; amounts take 0.1 to 0.3 s on the host."""
    command = " ".join(["{dir}/kernels", name, str(amount), *arguments])
    return Work(row or name, group, command, checked=True)


def timed(group, name, command, **how):
    """A program that does a fixed amount of work, timed from its start to its end."""
    return Work(name, group, f"{{dir}}/kernels time {name} {command}", **how)


def speed(group, name, algorithm):
    """What 100 MB take, by the rate that openssl finds within a second."""
    def seconds(output):
        return 1e8 / float(re.search(r"^\+F:.*:([0-9.]+)$", output, re.M)[1])

    command = f"@openssl speed -mr -seconds 1 -bytes 16384 -evp {algorithm}"
    return timed(group, name, command, seconds=seconds)


def signing(group, name, algorithm, count):
    """What so many signatures take, by their number a second."""
    def seconds(output):
        return count / float(re.search(r"^\+F[24]:\d+:\d+:([0-9.]+):", output, re.M)[1])

    return timed(group, name, f"@openssl speed -mr -seconds 1 {algorithm}", seconds=seconds)


def packing(group, name, command):
    """What a thousand million of 7-Zip's instructions take, by its rating in MIPS."""
    def seconds(output):
        return 1e3 / float(re.search(r"^Tot:.* (\d+)$", output, re.M)[1])

    return timed(group, name, command, seconds=seconds)


def stress(group, method, operations):
    """What stress-ng says that its operations took, without its start and end."""
    def seconds(output):
        # A stressor that a signal killed has no such line, though the status is 0.
        done, rate = re.search(r"metrc:.* cpu +(\d+) .* ([0-9.]+) +[0-9.]+$", output, re.M).groups()
        return int(done) / float(rate)

    return timed(group, "stress-" + method, "@stress-ng --timeout 0 --metrics-brief "
                 f"--cpu 1 --cpu-method {method} --cpu-ops {operations}", seconds=seconds)


KERNELS = [
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
    kernel(FLOAT, "nbody", 1000),
    kernel(FLOAT, "saxpy", 100000),
    kernel(FLOAT, "copy-small", 15000),
    kernel(FLOAT, "copy-large", 300),
    kernel(SYSTEM, "getpid", 1500),
    kernel(SYSTEM, "files", 12000),
    kernel(SYSTEM, "pipe", 20),
    kernel(SYSTEM, "signal", 50),
    kernel(PROCESS, "fork", 1200),
    kernel(PROCESS, "exec", 400, "{dir}/small"),
    kernel(PROCESS, "exec", 150, "{dir}/small-dynamic", row="exec-dynamic"),
    kernel(PROCESS, "fault", 70),
    kernel(PROCESS, "cow", 500),
    kernel(OTHER, "mutex", 1500),
    kernel(OTHER, "futex", 100),
    kernel(OTHER, "thread", 8000),
    kernel(OTHER, "atomic", 8000),
    kernel(OTHER, "modify", 300),
    kernel(OTHER, "generate", 150),
]

PROGRAMS = [
    timed(INTEGER, "sysbench-cpu",
          "@sysbench cpu --time=0 --events=200 --cpu-max-prime=10000 run"),
    timed(INTEGER, "sysbench-memory",
          "@sysbench memory --time=0 --memory-total-size=2G --memory-block-size=16K run"),
    packing(INTEGER, "7z", "@7zz b 1 -mmt1 -md18 -mtime=0"),
    *(stress(INTEGER, method, n) for method, n in
      [("int64", 200), ("ackermann", 200), ("queens", 200)]),
    speed(INTEGER, "openssl-sha256", "sha256"),
    signing(INTEGER, "openssl-rsa", "rsa2048", 200),
    signing(INTEGER, "openssl-ecdsa", "ecdsap256", 5000),
    speed(FLOAT, "openssl-aes-cbc", "aes-128-cbc"),
    speed(FLOAT, "openssl-aes-gcm", "aes-128-gcm"),
    *(stress(FLOAT, method, n) for method, n in
      [("double", 150), ("float80", 150), ("matrixprod", 100), ("fft", 200)]),
    timed(SYSTEM, "hackbench", "@hackbench -g 1 -f 10 -l 1000"),
    timed(OTHER, "sysbench-threads",
          "@sysbench threads --time=0 --events=1500 --threads=4 --thread-yields=100 run"),
    timed(OTHER, "sysbench-mutex",
          "@sysbench mutex --threads=4 --mutex-num=64 --mutex-loops=2000 --mutex-locks=50000 run"),
]

COMPILER = ("@tcc -B{tcc}/usr/lib/x86_64-linux-gnu/tcc -nostdinc "
            "-I{tcc}/usr/lib/x86_64-linux-gnu/tcc/include "
            "-I{tcc}/usr/include/x86_64-linux-gnu -I{tcc}/usr/include -D_GNU_SOURCE")
MACHINES = [
    Work(BOOT, OTHER),
    Work(CYCLE, OTHER),
    timed(OTHER, MAKE, "sh {dir}/make 32 {dir} {sources} " + COMPILER, checked=True, vcpus=4),
]

WORKS = KERNELS + PROGRAMS + MACHINES


def select(names, groups):
    """The rows that the words of the command line name; all, if there are none."""
    if not names and not groups:
        return WORKS
    unknown = [n for n in names if n not in {w.name for w in WORKS}]
    unknown += [g for g in groups if not starting(g)]
    if unknown:
        raise SystemExit(f"bench: no such row or group: {', '.join(unknown)}\n"
                         f"rows: {', '.join(w.name for w in WORKS)}\n"
                         f"groups: {'; '.join(GROUPS)}")
    chosen = [g for word in groups for g in starting(word)]
    return [w for w in WORKS if w.name in names or w.group in chosen]


def starting(word):
    """The groups whose name starts with a word."""
    return [g for g in GROUPS if g.startswith(word)]
