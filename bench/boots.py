"""Rows about the whole machine: power-on to the first act of process 1, and to power-off."""

import json
import pathlib
import subprocess
import tempfile
import time

import ways
from works import BOOT, CYCLE

MEMORY = "512M"
FIRST = b"\x06"  # what guest/first.c writes
SECONDS = 300
APPEND = {BOOT: ways.CONSOLE + "rdinit=/bench/first", CYCLE: ways.CONSOLE + "trapeze.batch"}


def follow(command):
    """Seconds to the first byte of process 1, seconds to the end, the console's text, the status."""
    start = time.monotonic()
    first, text = None, b""
    process = subprocess.Popen(["timeout", str(SECONDS), *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while data := process.stdout.read1(65536):
        if first is None and FIRST in data:
            first = time.monotonic() - start
        text += data
    status = process.wait()
    return first, time.monotonic() - start, text.decode(errors="replace"), status


def boot(args, way, work, initrd, failures):
    """One sample of a row, and for trapeze the statistics of the run."""
    with tempfile.NamedTemporaryFile() as stats:
        command = ways.COMMANDS[way](args, MEMORY)
        if way == "trapeze":
            command += ["--stats", stats.name]
        first, total, text, status = follow(
            ways.with_boot(command, args.kernel, initrd, APPEND[work.name]))
        seconds = first if work.name == BOOT else total
        good = first if work.name == BOOT else " 0 failed" in text
        if status or not good:
            failures.add(work.name, way, f"the guest ended with status {status}", text)
            return None, {}
        text = pathlib.Path(stats.name).read_text(encoding="utf-8")
    return ways.Sample(seconds, None), json.loads(text) if text else {}


def run_boots(args, way, works, initrd, progress, failures):
    """Samples by row, and what the statistics add to the report."""
    samples, facts = {}, {}
    for work in works:
        progress(f"{way}: {work.name}")
        used = initrd if work.name == BOOT else args.initrd
        sample, stats = boot(args, way, work, used, failures)
        if sample:
            samples[work.name] = sample
        if stats and work.name == BOOT:
            if stats["first_user_seconds"] is not None:  # KVM does not say when the guest gets there
                facts["first_user_seconds"] = stats["first_user_seconds"]
        elif stats:
            facts["beyond_ram_bytes"] = stats["host_resident_bytes"]
    return samples, facts
