"""Load on the disks and the network of a whole Debian: fio, stress-ng, iperf3.

TRAPEZE_LONG=1 has them write GiBs and go through all that stress-ng has for disks and file systems.
"""

import json
import os
import re
import subprocess

import pytest

from conftest import LONG
from debian_guest import boot, free_port
from guest_image import install, native_command

MIB = 1 << 20
SECONDS = 10 if LONG else 2  # of each transfer
REGION = 1024 if LONG else 16  # MiB that a job writes
# Name of the job: its options, and where on the disk it works, in regions.
JOBS = {"sequential": ("--rw=write --bs=1M", 0), "random": ("--rw=randwrite --bs=4k", 1)}
# What there is in stress-ng for a disk, all at once or (by classes) one after the other.
STRESS = ["--aio 1 --copy-file 1 --dentry 1 --fallocate 1 --hdd 1 --hdd-bytes 16M --iomix 1"
          " --iomix-bytes 16M --readahead 1 --readahead-bytes 16M --rename 1 --seek 1 --sync-file 1"
          " --timeout 10"]
if LONG:  # its io-uring fails on any kernel: it asks for the state of a file that it has removed
    STRESS = ["--class io --sequential 1 --timeout 6 --exclude io-uring",
              "--class filesystem --sequential 2 --timeout 4"]


def fio(disk, job, *more):
    options, region = JOBS[job]
    return " ".join(["fio", "--name=v", f"--filename={disk}", options, f"--offset={region * REGION}M",
                     f"--size={REGION}M", "--direct=1", "--ioengine=libaio", "--iodepth=16",
                     "--verify=crc32c", "--verify_fatal=1", "--verify_async=0", *more,
                     "> /tmp/fio 2>&1 || { cat /tmp/fio; false; }"])


def make_disks(trapeze, folder):
    """A raw one and a qcow2 one, as options of run."""
    size = f"{2 * REGION}M"
    disks = []
    for form in "raw", "qcow2":
        path = folder / f"second.{form}"
        subprocess.run([trapeze, "image", "create", "-f", form, path, size], check=True,
                       capture_output=True)
        disks += ["--disk", f"{path},format={form}"]
    return disks


def test_fio(trapeze, debian, disk, tmp_path, start):
    """What it wrote is right at once, and after the machine was off; and it does find a wrong byte."""
    disks = make_disks(trapeze, tmp_path)
    guest = boot(start, debian, disk, *disks, "--vcpus", "2")
    guest.log_in()
    for name in "/dev/vdb", "/dev/vdc":
        for job in JOBS:
            guest.run(fio(name, job))
    guest.power_off()
    subprocess.run(["qemu-img", "check", "-q", tmp_path / "second.qcow2"], check=True)

    guest = boot(start, debian, disk, *disks)
    guest.log_in()
    for name in "/dev/vdb", "/dev/vdc":
        for job in JOBS:
            guest.run(fio(name, job, "--verify_only"))
        guest.run(f"printf x | dd of={name} bs=1 seek=$(({REGION // 2} * {MIB} + 1000)) conv=notrunc"
                  " status=none")
        assert "crc32c" in guest.run(fio(name, "sequential", "--verify_only"), status=1)
    guest.power_off()
    subprocess.run(["qemu-img", "check", "-q", tmp_path / "second.qcow2"], check=True)


@pytest.mark.parametrize("options", STRESS, ids=lambda text: "-".join(text.split()[:2]).strip("-"))
def test_stress_from_disk(debian, disk, start, options):
    """stress-ng checks what it reads back; afterwards the file system and the log are clean."""
    guest = boot(start, debian, disk, "--vcpus", "2")
    guest.log_in()
    out = guest.ssh(f"mkdir /root/stress && stress-ng --verify --temp-path /root/stress {options} 2>&1;"
                    " echo status $?").decode()
    print(out)
    # 3 and 4: there was something that this kernel or this file system has not.
    assert out.splitlines()[-1] in ("status 0", "status 3", "status 4"), out
    assert "fail:" not in out and "successful run completed" in out, out
    log = guest.ssh("journalctl -b -k -p warning").decode()
    print(log)
    assert not re.search(r"EXT4-fs|I/O error|JBD2", log), log
    guest.power_off()
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    raw = disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    subprocess.run(["e2fsck", "-f", "-n", raw], check=True, env=environment, capture_output=True)


def iperf3(guest, folder, *words):
    """What one client in the guest and its server on the host say that was sent and received, in bytes."""
    port = free_port()
    with subprocess.Popen([*native_command(folder, "iperf3"), "-s", "-1", "-p", str(port), "-J"],
                          stdout=subprocess.PIPE, text=True) as server:
        try:
            out = guest.ssh(f"until iperf3 -J -c 10.0.2.2 -p {port} -t {SECONDS} {' '.join(words)} > /tmp/i; do"
                            " grep -q refused /tmp/i || break; sleep 0.1; done; cat /tmp/i")
            other = server.communicate(timeout=120)[0]
        finally:
            server.kill()
    ends = [json.loads(text)["end"] for text in (out, other)]
    return [end[key]["bytes"] for end, key in zip(ends if "-R" not in words else ends[::-1],
                                                  ["sum_sent", "sum_received"])]


def test_iperf3_both_ways(debian, disk, tmp_path, start):
    install(tmp_path / "host", {"programs": [("iperf3", "usr/bin/iperf3")]})
    guest = boot(start, debian, disk)
    guest.log_in()
    for words in [], ["-R"], ["-P", "4"]:
        sent, received = iperf3(guest, tmp_path / "host", *words)
        print(words, sent * 8 / SECONDS / 1e6, "Mbit/s")
        assert 0 < received <= sent, (words, sent, received)
    guest.power_off()
