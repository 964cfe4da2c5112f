"""What an exit costs on KVM, against QEMU on the same KVM; and what it costs to start.

A guest that reads a device many times, and one that does it hardly at all, give the cost of one exit by
their difference: all of it by the clock, the monitor's share by the CPU time of user space. Rounds
alternate, the least of each counts. The third kind of exit is none: a doorbell that the host's kernel
answers, if the monitor has asked it to; the threads that hear it are part of the monitor's share.
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time

PASS = 33
FEW, MANY = 100, 20100
START_RUNS = 25
QEMU = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-M", "pc,hpet=on", "-display", "none", "-no-reboot",
        "-nodefaults", "-m", "64", "-device", "virtio-rng-pci,disable-legacy=on", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"]


def measured(command):
    """Wall and user CPU seconds of a command that ends as the guest says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, check=False, timeout=600)
    wall = time.monotonic() - start
    if done.returncode != PASS:
        raise SystemExit(f"bench: {command[0]} ended with status {done.returncode}: {done.stderr.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def per_exit(commands, rounds):
    """{name: (wall, user)} in microseconds an exit; commands: {name: (few, many)}."""
    best = {}
    for _ in range(rounds):
        for name, pair in commands.items():
            for which, command in enumerate(pair):
                wall, user, _ = measured(command)
                old = best.get((name, which), (wall, user))
                best[name, which] = min(old[0], wall), min(old[1], user)
    scale = 1e6 / (MANY - FEW)
    return {name: tuple((best[name, 1][n] - best[name, 0][n]) * scale for n in (0, 1)) for name in commands}


def ways(args, guests):
    found = {}
    for irqchip in "kernel", "split", "own":
        found[f"trapeze, irqchip {irqchip}"] = [
            [args.trapeze, "run", "--engine", "kvm", "--irqchip", irqchip, "--serial", "none", "--memory", "64M",
             "--rng", "--kernel", guest] for guest in guests]
    if shutil.which(QEMU[0]):
        found["QEMU -accel kvm"] = [QEMU + [guest] for guest in guests]
    return found


def exits(args):
    print(f"{'microseconds an exit':32}{'by the clock':>16}{'in user space':>16}")
    for kind in "pio", "mmio", "bell":
        guests = [str(args.build / "bench" / f"exits-{kind}-{n}.elf") for n in (FEW, MANY)]
        for name, (wall, user) in per_exit(ways(args, guests), max(args.runs, 3)).items():
            print(f"{kind + ': ' + name:32}{wall:16.2f}{user:16.2f}")


def start(args):
    """CPU time of a machine that does next to nothing, and memory beyond its RAM."""
    guest = str(args.build / "bench" / f"exits-pio-{FEW}.elf")
    with tempfile.NamedTemporaryFile() as stats:
        command = [args.trapeze, "run", "--engine", "kvm", "--serial", "none", "--memory", "128M", "--stats",
                   stats.name, "--kernel", guest]
        runs = [measured(command) for _ in range(START_RUNS)]
        resident = json.load(open(stats.name, encoding="utf-8"))["host_resident_bytes"]
    # The kernel may account by ticks: only many runs together say something.
    user, system = (sum(run[n] for run in runs) / len(runs) for n in (1, 2))
    print(f"\nstart to end of a guest of {FEW} exits, 128 MiB, one vCPU: {min(run[0] for run in runs) * 1e3:.1f} ms; "
          f"CPU time on average {user * 1e3:.1f} ms user, {system * 1e3:.1f} ms system")
    print(f"memory beyond guest RAM: {resident / 2**20:.2f} MiB")


def run_all(args):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise SystemExit("bench: --exits needs /dev/kvm")
    exits(args)
    start(args)
