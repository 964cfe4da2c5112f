#!/usr/bin/env python3
"""A whole Debian, under Trapeze and under QEMU's TCG in turns: how long from the start of the process to
the login prompt, and what fio measures in the guest on two more disks, a raw and a qcow2 one.

    bench/debian.py [--trapeze FILE] [--only trapeze|tcg] [--boots N] [--rounds N] IMAGE

IMAGE is of `trapeze image debian --packages fio`; nothing is written to it. In each boot every job runs
ROUNDS times on each of the two disks, one right after the other and in turns the other way round. Best of
all rounds; of raw against qcow2 the median of the rounds' ratios, too, and that of the CPU time that
Trapeze's threads but the vCPU's took for a MiB, which other work on the host moves least.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "test/boot"))
import machine  # noqa: E402

SECONDS = 900
DISK_BYTES = 512 << 20
FORMATS = {"raw": "/dev/vdb", "qcow2": "/dev/vdc"}
TIMED = "--time_based --runtime=3"
# Mode, size of a request, how long, and what to do before.
JOBS = {"4k random read": ("randread", "4k", TIMED, ":"),
        "4k random write": ("randwrite", "4k", TIMED, ":"),
        "1M read": ("read", "1M", TIMED, ":"),
        "1M write": ("write", "1M", TIMED, ":"),
        # Once through a disk that has nothing allocated any more.
        "1M first write": ("write", "1M", "", "blkdiscard {disk} && sync {disk}")}


def kernel_of(image, folder):
    """The files that TCG needs by themselves."""
    raw = folder / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    names = subprocess.run(["/usr/sbin/debugfs", "-R", "ls -p /boot", raw], check=True, text=True,
                           capture_output=True).stdout.split("/")
    for kind in "vmlinuz", "initrd.img":
        name = max(n for n in names if n.startswith(f"{kind}-"))
        subprocess.run(["/usr/sbin/debugfs", "-R", f"dump /boot/{name} {folder / kind}", raw],
                       check=True, capture_output=True)
    raw.unlink()


def command(who, trapeze, folder):
    disk = folder / "disk.qcow2"
    seconds = [(folder / f"second.{form}", form) for form in FORMATS]
    if who == "trapeze":
        return [trapeze, "run", "--engine", "bt", "--image", disk, "--memory", "1G",
                *(a for path, form in seconds for a in ("--disk", f"{path},format={form}"))]
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "1G",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-kernel", folder / "vmlinuz", "-initrd", folder / "initrd.img",
            "-append", "root=/dev/vda console=ttyS0",
            "-drive", f"if=virtio,file={disk},format=qcow2",
            *(a for path, form in seconds
              for a in ("-drive", f"if=virtio,file={path},format={form},discard=unmap"))]


def device_seconds(m):
    """CPU time of the machine's process so far, but for its vCPU's thread."""
    tasks = pathlib.Path(f"/proc/{m.process.pid}/task").iterdir()
    vcpu = next(t for t in tasks if (t / "comm").read_text() == "vcpu0\n")
    return m.cpu_seconds() - int((vcpu / "schedstat").read_text().split()[0]) / 1e9


def run(m, command):
    """What it prints."""
    m.send(f"{command}; echo en''d\n")
    return m.expect("end\r\n", SECONDS)


def fio(m, who, job, form):
    """MiB/s of one job, and of our own devices the microseconds of CPU time for a MiB."""
    mode, size, time_limit, before = JOBS[job]
    disk = FORMATS[form]
    run(m, before.format(disk=disk))
    os.sync()  # or the host writes the last job's data back in this one's time
    cpu = device_seconds(m) if who == "trapeze" else 0
    text = run(m, f"fio --name=x --filename={disk} --rw={mode} --bs={size} --direct=1"
               f" --ioengine=libaio --iodepth=16 {time_limit} --output-format=json > /tmp/f;"
               " echo; cat /tmp/f")
    cpu = device_seconds(m) - cpu if who == "trapeze" else 0
    result = json.loads(text[text.index("{"):text.rindex("}") + 1])["jobs"][0]
    result = result["read" if "read" in mode else "write"]
    return result["bw"] / 1024, cpu * 1e6 / (result["io_bytes"] / (1 << 20))


def log_in(m):
    m.expect("login: ", SECONDS)
    m.send("root\n")
    m.expect("~# ", SECONDS)
    m.send("stty -echo; PS1= TERM=dumb exec sh\n")
    m.send("echo $((6 * 7))\n")
    m.expect("42\r\n", SECONDS)


def make_disks(image, folder):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                    os.path.abspath(image), folder / "disk.qcow2"], check=True)
    for form in FORMATS:
        subprocess.run(["qemu-img", "convert", "-O", form, folder / "data",
                        folder / f"second.{form}"], check=True)


def measure(who, args, folder, numbers):
    """One boot, which appends to the lists in numbers."""
    make_disks(args.image, folder)
    start = time.monotonic()
    m = machine.Machine([str(a) for a in command(who, args.trapeze, folder)])
    try:
        m.expect("login: ", SECONDS)
        numbers.setdefault((who, "login"), []).append(time.monotonic() - start)
        m.send("\n")
        log_in(m)
        for i in range(args.rounds):
            for job in JOBS:
                for form in list(FORMATS)[::1 if i % 2 else -1]:
                    numbers.setdefault((who, form, job), []).append(fio(m, who, job, form))
    finally:
        m.close()


def print_row(name, values, better):
    """values: a list of each who ran."""
    best = [better(v) for v in values]
    cells = [f"{b:.1f}" for b in best]
    if len(best) == 2:
        cells.append(f"{best[0] / best[1] if better is max else best[1] / best[0]:.1f} x")
    print(f"| {name} | {' | '.join(cells)} |")


def print_parts(who, numbers):
    for job in JOBS:
        raw, qcow2 = numbers[who, "raw", job], numbers[who, "qcow2", job]
        row = [max(q for q, _ in qcow2) / max(r for r, _ in raw),
               statistics.median(q / r for (q, _), (r, _) in zip(qcow2, raw))]
        if who == "trapeze":
            row.append(min(r for _, r in raw) / min(q for _, q in qcow2))
        print(f"| {who}: qcow2 / raw, {job} | {' | '.join(f'{n:.2f}' for n in row)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trapeze", default=ROOT / "build/src/cli/trapeze")
    parser.add_argument("--only", choices=["trapeze", "tcg"])
    parser.add_argument("--boots", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("image")
    args = parser.parse_args()
    whom = [args.only] if args.only else ["trapeze", "tcg"]
    numbers = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kernel_of(args.image, folder)
        (folder / "data").write_bytes(os.urandom(DISK_BYTES))
        for _ in range(args.boots):
            for who in whom:
                measure(who, args, folder, numbers)
    print(f"load average {os.getloadavg()[0]:.1f}; {', '.join(whom)}")
    print_row("login, s", [numbers[who, "login"] for who in whom], min)
    for form in FORMATS:
        for job in JOBS:
            print_row(f"{form} {job}, MiB/s",
                      [[n for n, _ in numbers[who, form, job]] for who in whom], max)
    for who in whom:
        print_parts(who, numbers)


if __name__ == "__main__":
    main()
