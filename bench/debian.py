#!/usr/bin/env python3
"""A whole Debian, under Trapeze and under QEMU's TCG in turns: how long from the start of the process to
the login prompt, and what fio measures in the guest on a second disk, raw and qcow2.

    bench/debian.py [--trapeze FILE] [--rounds N] IMAGE

IMAGE is of `trapeze image debian --packages fio`; nothing is written to it.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "test/boot"))
import machine  # noqa: E402

SECONDS = 900
DISK_BYTES = 512 << 20
JOBS = {"4k random read": ("randread", "4k"), "4k random write": ("randwrite", "4k"),
        "1M read": ("read", "1M"), "1M write": ("write", "1M")}


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


def command(who, trapeze, folder, form):
    disk, second = folder / "disk.qcow2", folder / f"second.{form}"
    if who == "trapeze":
        return [trapeze, "run", "--engine", "bt", "--image", disk, "--memory", "1G",
                "--disk", f"{second},format={form}"]
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "1G",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-kernel", folder / "vmlinuz", "-initrd", folder / "initrd.img",
            "-append", "root=/dev/vda console=ttyS0",
            "-drive", f"if=virtio,file={disk},format=qcow2",
            "-drive", f"if=virtio,file={second},format={form}"]


def fio(m, job):
    """KiB/s of one job."""
    mode, size = JOBS[job]
    m.send(f"fio --name=x --filename=/dev/vdb --rw={mode} --bs={size} --direct=1 --ioengine=libaio"
           " --iodepth=16 --runtime=5 --time_based --output-format=json > /tmp/f; echo; cat /tmp/f;"
           " echo en''d\n")
    text = m.expect("end\r\n", SECONDS)
    result = json.loads(text[text.index("{"):text.rindex("}") + 1])["jobs"][0]
    return result["read" if "read" in mode else "write"]["bw"]


def measure(who, args, folder, form):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                    os.path.abspath(args.image), folder / "disk.qcow2"], check=True)
    subprocess.run(["qemu-img", "convert", "-O", form, folder / "data", folder / f"second.{form}"],
                   check=True)
    start = time.monotonic()
    m = machine.Machine([str(a) for a in command(who, args.trapeze, folder, form)])
    try:
        m.expect("login: ", SECONDS)
        numbers = {"login, s": time.monotonic() - start}
        m.send("root\n")
        m.expect("~# ", SECONDS)
        m.send("stty -echo; PS1= TERM=dumb exec sh\n")
        m.send("echo $((6 * 7))\n")
        m.expect("42\r\n", SECONDS)
        for job in JOBS:
            numbers[f"{form} {job}, MiB/s"] = fio(m, job) / 1024
    finally:
        m.close()
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trapeze", default=ROOT / "build/src/cli/trapeze")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("image")
    args = parser.parse_args()
    best = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kernel_of(args.image, folder)
        (folder / "data").write_bytes(os.urandom(DISK_BYTES))
        for form in ["raw", "qcow2"] * args.rounds:
            for who in "trapeze", "tcg":
                for what, n in measure(who, args, folder, form).items():
                    better = min if what == "login, s" else max
                    best[who, what] = better(n, best.get((who, what), n))
    for what in dict.fromkeys(what for _, what in best):
        ours, theirs = best["trapeze", what], best["tcg", what]
        ratio = theirs / ours if what == "login, s" else ours / theirs
        print(f"| {what} | {ours:.1f} | {theirs:.1f} | {ratio:.1f} x |")


if __name__ == "__main__":
    main()
