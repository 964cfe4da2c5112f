"""The three ways of running the rows: on the host, under trapeze, under QEMU's TCG.

Each returns samples by row: a Sample holds the seconds and the checksum that the row itself printed.
"""

import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import guest_image

Sample = collections.namedtuple("Sample", "seconds checksum")

RESULT = re.compile(r"^(\S+) (\d+\.\d+) ([0-9a-f]{16})$", re.M)
APPEND = "console=ttyS0 quiet panic=-1 rdinit=/bench/init"
QEMU = "qemu-system-x86_64"


class Failure(Exception):
    """A row, or a whole guest, that did not do what it should."""


class Image:
    """The files of the guest: the initial RAM disk, and the same programs for the host."""

    def __init__(self, build, base):
        self.kernels = build / "bench/guest"
        self.base = base

    def native_words(self, work):
        words = []
        for word in work.command.format(dir=self.kernels).split():
            words.append(str(self.kernels / word) if word == "kernels" else word)
        return words

    def guest_words(self, work):
        return work.command.format(dir="/bench").split()

    def write(self, out, plan, extra=()):
        """Makes the initial RAM disk whose init runs a plan: works by row."""
        with tempfile.TemporaryDirectory() as temp:
            root = pathlib.Path(temp)
            (root / "bench").mkdir()
            for name in ["kernels", "small", "small-dynamic"]:
                shutil.copy2(self.kernels / name, root / "bench" / name)
            shutil.copy2(pathlib.Path(__file__).with_name("guest") / "init", root / "bench/init")
            self.add_host_libraries(root)
            lines = [f"{work.name} {' '.join(self.guest_words(work))}\n" for work in plan]
            (root / "bench/plan").write_text("".join(lines))
            guest_image.archive(root, [self.base, *extra], out)

    @staticmethod
    def add_host_libraries(root):
        """What the dynamic kernel loads: it was linked with the host's library."""
        for folder in ["lib64", guest_image.LIBRARIES]:
            (root / folder).mkdir(parents=True)
        host = pathlib.Path("/")
        shutil.copy2(host / guest_image.LOADER, root / guest_image.LOADER)
        library = f"{guest_image.LIBRARIES}/libc.so.6"
        shutil.copy2(host / library, root / library)


class Progress:
    """Says on the terminal what runs at the moment."""

    def __init__(self):
        self.shown = sys.stderr.isatty()

    def __call__(self, text):
        if self.shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def sample_of(work, output):
    found = RESULT.findall(output)
    if not found:
        raise Failure(f"row {work.name} printed no result:\n{output}")
    _, seconds, checksum = found[-1]
    return Sample(float(seconds), checksum if work.checked else None)


def run_native(image, works, progress):
    """On one CPU of the host, like a guest with one vCPU."""
    cpu = max(os.sched_getaffinity(0))
    samples = {}
    for work in works:
        progress(f"native: {work.name}")
        done = subprocess.run(image.native_words(work), stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        if done.returncode:
            raise Failure(f"row {work.name} on the host: status {done.returncode}\n{done.stdout}")
        samples[work.name] = sample_of(work, done.stdout)
    return samples


def trapeze_command(args, memory="512M", vcpus=1):
    engine = ["--engine", args.engine] if args.engine else []
    return [args.trapeze, "run", *engine, "--memory", memory, "--vcpus", str(vcpus),
            "--exit-on-reboot"]


def tcg_command(args, memory="512M", vcpus=1):
    """Without default devices, which trapeze has not either and firmware would spend time on."""
    threads = ",thread=multi" if vcpus > 1 else ""
    return [QEMU, "-accel", "tcg" + threads, "-cpu", "max", "-M", "q35", "-m", memory,
            "-smp", str(vcpus), "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]


def boot_words(args, initrd, append):
    """For both: the names of the options differ by a dash."""
    return {"kernel": args.kernel, "initrd": str(initrd), "append": append}


def with_boot(command, words):
    dash = "-" if command[0] == QEMU else "--"
    return command + [word for key, value in words.items() for word in (dash + key, value)]


def run_guest(name, command, works, progress, seconds):
    """Runs the plan in a guest, and reads its console."""
    wanted = {work.name: work for work in works}
    samples = {}
    text = ""
    process = subprocess.Popen(["timeout", str(seconds), *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    row = None
    for raw in process.stdout:
        line = raw.decode(errors="replace").rstrip("\r\n")
        text += line + "\n"
        if match := re.search(r"== row (\S+)", line):
            row, text = match[1], ""
            progress(f"{name}: {row}")
        elif (match := re.search(r"== done (\d+)", line)) and row:
            if match[1] != "0":
                raise Failure(f"row {row} under {name}: status {match[1]}\n{text}")
            samples[row] = sample_of(wanted[row], text)
            row = None
    status = process.wait()
    if status or len(samples) < len(wanted):
        raise Failure(f"{name} ended with status {status} in row {row}:\n{text[-3000:]}")
    return samples
