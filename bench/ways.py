"""The three ways of running rows: on the host, under trapeze, under QEMU's TCG.

Each yields samples by row: the seconds and the checksum that the row itself printed. What went wrong
is collected, so that one bad row does not cost the others.
"""

import collections
import os
import re
import subprocess
import sys
import time

Sample = collections.namedtuple("Sample", "seconds checksum")

RESULT = re.compile(r"^(\S+) (\d+\.\d+) ([0-9a-f]{16})$", re.M)
CONSOLE = "console=ttyS0 quiet panic=-1 "
QEMU = "qemu-system-x86_64"


class Progress:
    """Says on the terminal what runs at the moment."""

    def __init__(self):
        self.shown = sys.stderr.isatty()
        self.round = ""

    def __call__(self, text):
        if self.shown:
            print(f"\r\033[K{self.round}{text}", end="", file=sys.stderr, flush=True)

    def done(self):
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Failures(list):
    def add(self, row, way, what, text=""):
        last = "\n".join("    " + line for line in text.splitlines()[-8:])
        self.append(f"row {row}, {way}: {what}" + ("\n" + last if last else ""))


def sample_of(work, output, status):
    """The sample in the output of a row, or a word on why there is none."""
    found = RESULT.findall(output)
    if status or not found:
        return f"status {status}" if status else "no result"
    _, seconds, checksum = found[-1]
    try:
        seconds = work.seconds(output) if work.seconds else float(seconds)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return "a result that cannot be read"
    return Sample(seconds, checksum if work.checked else None)


def keep(samples, work, way, output, status, failures):
    sample = sample_of(work, output, status)
    if isinstance(sample, Sample):
        samples[work.name] = sample
    else:
        failures.add(work.name, way, sample, output)


def check_clock(row, way, output, elapsed, failures):
    """The guest's clock must agree with the host's, but for the start of the row's program."""
    for _, seconds, _ in RESULT.findall(output)[-1:]:
        if abs(elapsed - float(seconds)) > 0.5 + 0.1 * elapsed:
            failures.add(row, way, f"took {seconds} s by the guest's clock, {elapsed:.3f} s by ours")


def run_native(image, works, place, progress, failures):
    """With one CPU of the host, where the guest has one vCPU."""
    cpus = os.sched_getaffinity(0)
    samples = {}
    for work in works:
        progress(f"native: {work.name}")
        few = {max(cpus)} if work.vcpus == 1 else cpus
        done = subprocess.run(image.native_words(work), stdin=subprocess.DEVNULL, **place,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              preexec_fn=lambda some=few: os.sched_setaffinity(0, some))
        output = done.stdout.decode(errors="replace")
        keep(samples, work, "native", output, done.returncode, failures)
    return samples


def trapeze_command(args, memory, vcpus=1):
    engine = ["--engine", args.engine] if args.engine else []
    return [args.trapeze, "run", *engine, "--memory", memory, "--vcpus", str(vcpus),
            "--exit-on-reboot"]


def tcg_command(args, memory, vcpus=1):
    """Without default devices, which trapeze has not either and firmware would spend time on."""
    threads = ",thread=multi" if vcpus > 1 else ""
    return [QEMU, "-accel", "tcg" + threads, "-cpu", "max", "-M", "q35", "-m", memory,
            "-smp", str(vcpus), "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", "stdio"]


COMMANDS = {"trapeze": trapeze_command, "tcg": tcg_command}


def with_boot(command, kernel, initrd, append):
    """The names of these options differ by a dash only."""
    dash = "-" if command[0] == QEMU else "--"
    return [*command, dash + "kernel", kernel, dash + "initrd", str(initrd), dash + "append", append]


def run_guest(way, command, works, progress, failures, seconds):
    """Follows a guest's console through the rows of its plan."""
    wanted = {work.name: work for work in works}
    samples, seen, row, text, ended, start = {}, set(), None, "", False, 0
    process = subprocess.Popen(["timeout", str(seconds), *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for raw in process.stdout:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if match := re.search(r"== row (\S+)", line):
            row, text, start = match[1], "", time.monotonic()
            seen.add(row)
            progress(f"{way}: {row}")
        elif (match := re.search(r"== done (\d+)", line)) and row:
            keep(samples, wanted[row], way, text, int(match[1]), failures)
            check_clock(row, way, text, time.monotonic() - start, failures)
            row = None
        else:
            text += line + "\n"
            ended = ended or "== end" in line
    status = process.wait()
    if status or not ended:
        failures.add(row or "(none)", way, f"the guest ended with status {status}", text)
        for name in wanted.keys() - seen:
            failures.add(name, way, "not reached")
    return samples
