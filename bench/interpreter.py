"""The interpreter: its speed on the loop mix, boot time, memory.

Ratios against QEMU's TCG are taken in the same run, on the same kernel and initramfs, with one vCPU.
Machines are shared and noisy: each time is the least of some runs, speed is per second of CPU time.
"""
import json
import shutil
import subprocess
import tempfile
import time

PASS = 33  # what loops.c writes to the exit port, as a process status
QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-display", "none", "-no-reboot"]


def run(command, timeout=300, **kwargs):
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=timeout, check=False, **kwargs)


def trapeze_stats(trapeze, arguments, expected):
    with tempfile.NamedTemporaryFile() as stats:
        done = run([trapeze, "run", "--serial", "none", "--stats", stats.name, *arguments])
        if done.returncode != expected:
            raise SystemExit(f"bench: trapeze ended with status {done.returncode}, not {expected}")
        return json.load(open(stats.name, encoding="utf-8"))


def elapsed(command, expected, log=None):
    start = time.monotonic()
    done = run(command, stdout=log or subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode != expected:
        raise SystemExit(f"bench: {command[0]} ended with status {done.returncode}, not {expected}")
    return time.monotonic() - start


def loops(args):
    """The integer loop mix, in guest instructions a second of CPU time."""
    guest = str(args.build / "bench" / "loops.elf")
    best = min((trapeze_stats(args.trapeze, ["--kernel", guest, "--memory", "64M"], PASS)
                for _ in range(args.runs)), key=lambda s: s["cpu_user_seconds"])
    rate = best["instructions"] / best["cpu_user_seconds"] / 1e6
    print(f"integer loop mix, interp      {rate:8.0f} million guest instructions a second")
    if shutil.which(QEMU[0]):
        command = QEMU + ["-M", "pc", "-m", "64", "-kernel", guest,
                          "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        ours = ["--kernel", guest, "--memory", "64M", "--serial", "none"]
        tcg = min(elapsed(command, PASS) for _ in range(args.runs))
        mine = min(elapsed([args.trapeze, "run", *ours], PASS) for _ in range(args.runs))
        print(f"integer loop mix, wall        {mine:8.2f} s, TCG {tcg:.2f} s: {tcg / mine:.2f} x TCG")


def boot(args):
    """Cloud kernel, power-on to the end of the batch self-check's boot, one vCPU, 512 MiB."""
    if not (args.kernel and args.initrd):
        return
    append = "console=ttyS0 quiet trapeze.batch"
    common = ["--kernel", args.kernel, "--initrd", args.initrd, "--append", append, "--memory", "512M"]
    stats = min((trapeze_stats(args.trapeze, common, 0) for _ in range(args.runs)),
                key=lambda s: s["first_user_seconds"])
    print(f"first user-space instruction  {stats['first_user_seconds']:8.2f} s")
    print(f"power-on to power-off         {stats['wall_seconds']:8.2f} s, "
          f"{stats['cpu_user_seconds'] + stats['cpu_system_seconds']:.2f} s of CPU time")
    print(f"memory beyond guest RAM       {stats['host_resident_bytes'] / 2**20:8.1f} MiB")
    if shutil.which(QEMU[0]):
        command = QEMU + ["-M", "q35", "-m", "512", "-kernel", args.kernel, "-initrd", args.initrd,
                          "-append", append, "-serial", "null"]
        tcg = min(elapsed(command, 0) for _ in range(args.runs))
        print(f"the same under TCG            {tcg:8.2f} s: {tcg / stats['wall_seconds']:.2f} x TCG")


def run_all(args):
    loops(args)
    boot(args)
