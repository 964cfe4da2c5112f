"""Virtio devices, driven by Debian's cloud kernel."""

import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess

import pytest

from device_run import SECONDS, finish_devices, run_devices, start_devices
from machine import connect

RNG_SCRIPT = """
cat /sys/class/misc/hw_random/rng_current
head -c 65536 /dev/hwrng | gzip | wc -c
for i in 1 2 3 4; do head -c 64 /dev/hwrng | md5sum; done | sort -u | wc -l
grep virtio /proc/interrupts
cat /sys/bus/virtio/devices/virtio0/features
"""


@pytest.mark.every_engine
def test_rng(start, tmp_path):
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio-rng"], RNG_SCRIPT, "--rng")
    name, packed, different, *rest = out.split("\n")
    assert name.startswith("virtio_rng"), out
    assert int(packed) > 65000 and int(different) == 4, out
    assert re.search(r"[1-9]\d*\s.*MSI.*virtio0-input", "\n".join(rest)), out
    # Both layouts of rings, indirect descriptors, event index: Linux takes what is offered.
    features = rest[-2]
    assert [features[n] for n in (28, 29, 32, 34)] == ["1"] * 4, out


def test_rng_without_msi(start, tmp_path):
    """Interrupts come by INTA#, as the _PRT has it."""
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio-rng"], RNG_SCRIPT, "--rng",
                      append="pci=nomsi")
    assert int(out.split("\n")[1]) > 65000, out
    assert re.search(r"[1-9]\d*\s+IO-APIC +1[67]-fasteoi +virtio0", out), out


MIB = 1 << 20

DISK_SCRIPT = """
cat /sys/block/vda/size /sys/block/vda/serial
echo
cat /sys/block/vda/queue/write_cache
ls /sys/block/vda/mq | wc -l
sha256sum /dev/vda
mke2fs /dev/vda >/dev/null
mkdir /mnt
mount -t ext4 /dev/vda /mnt
head -c 4000000 /dev/urandom > /tmp/data
cp /tmp/data /mnt/data
sync
umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o discard /dev/vda /mnt
cmp /tmp/data /mnt/data && echo same
rm /mnt/data
echo kept > /mnt/kept
umount /mnt
dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct 2>&1 | head -1
cat /sys/block/vdb/ro
sha256sum /dev/vdb
"""


def make_disk(path, mib, seed):
    """A file of so many MiB that begins with bytes that are not all the same."""
    path.write_bytes(random.Random(seed).randbytes(MIB))
    os.truncate(path, mib * MIB)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tool(name):
    """A program for file systems, which an ordinary user's path may lack; or a skip."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return path or pytest.skip(f"no {name} on this host")


def read_ext4(path, name):
    """A file in an image, read on the host."""
    return subprocess.run([tool("debugfs"), "-R", f"cat {name}", path], capture_output=True, text=True,
                          check=True).stdout


@pytest.mark.every_engine
def test_disk(start, tmp_path):
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    sums = make_disk(first, 24, 1), make_disk(second, 2, 2)
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio_blk"], DISK_SCRIPT, "--disk",
                      f"{first},serial=number-1", "--disk", f"{second},readonly,format=raw",
                      "--vcpus", "2", expected=["timestamps until 2038"]).splitlines()
    assert out[:4] == [str(24 * 2048), "number-1", "write back", "2"]
    assert out[4].split()[0] == sums[0]
    assert "same" in out
    assert out[-2] == "1" and out[-1].split()[0] == sums[1], out
    assert hashlib.sha256(second.read_bytes()).hexdigest() == sums[1]
    assert read_ext4(first, "kept") == "kept\n"
    subprocess.run([tool("e2fsck"), "-fn", first], check=True, capture_output=True)


MOVE_SCRIPT = """
for n in 1 2 3; do
	dd if=/dev/zero of=/dev/DISK bs=1M count=24 oflag=direct
	dd if=/dev/DISK of=/dev/null bs=1M iflag=direct
done
echo moved
until false; do sleep 1; done
"""


def bytes_by_thread(pid):
    """What the kernel counts of a process's threads: {name: bytes read and written}."""
    total = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        counts = dict(re.findall(r"^(\w+): (\d+)$", (task / "io").read_text(), re.M))
        total[name] = total.get(name, 0) + sum(
            int(counts[key]) for key in ("rchar", "wchar", "read_bytes", "write_bytes"))
    return total


@pytest.mark.parametrize("bus, disk", [("virtio", "vda"), ("nvme", "nvme0n1")])
def test_disks_leave_vcpus_alone(start, tmp_path, bus, disk):
    """144 MiB to and from a disk; the vCPU's thread itself reads and writes next to nothing."""
    make_disk(tmp_path / "disk", 24, 1)
    m = start_devices(start, tmp_path, ["virtio_pci", "virtio_blk"],
                      MOVE_SCRIPT.replace("DISK", disk), "--disk", f"{tmp_path}/disk,if={bus}")
    m.expect("moved", SECONDS)
    moved = bytes_by_thread(m.process.pid)
    vcpus = {name: n for name, n in moved.items() if name.startswith("vcpu")}
    assert vcpus and all(n < MIB for n in vcpus.values()), moved


PORT_SCRIPT = """
until cat /sys/class/virtio-ports/vport0p1/name 2>/dev/null; do sleep 0.1; done
until [ -e /dev/hvc0 ]; do sleep 0.1; done
echo "hello console" > /dev/hvc0
exec 3<>/dev/vport0p1
echo ready
head -c 300000 <&3 > /tmp/in
cat /tmp/in >&3
head -c 1 <&3
echo
"""


@pytest.mark.every_engine
def test_console_ports(start, tmp_path):
    sock, log = tmp_path / "port", tmp_path / "console"
    m = start_devices(start, tmp_path, ["virtio_pci", "virtio_console"], PORT_SCRIPT, "--console",
                      f"file:{log}", "--port", f"org.test.echo=unix:{sock}")
    before = m.expect("ready\n", SECONDS)
    data = random.Random(1).randbytes(300000)
    with connect(str(sock)) as client:
        client.sendall(data)
        back = b""
        while len(back) < len(data):
            back += client.recv(65536)
        assert back == data
        client.sendall(b"!")
        m.output = before.encode() + m.output
        out = finish_devices(m)
    assert out.startswith("org.test.echo\n"), out
    assert log.read_bytes() == b"hello console\r\n"


BALLOON_SCRIPT = """
free_mib() { awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo; }
until [ $(free_mib) -lt 200 ]; do sleep 0.2; done
mkdir /tmp/a
mount -t tmpfs tmpfs /tmp/a
head -c 100000000 /dev/zero > /tmp/a/data
rm /tmp/a/data
sleep 5
"""


def test_balloon(start, tmp_path):
    """Taken memory and freed memory are the host's again."""
    stats = tmp_path / "stats"
    run_devices(start, tmp_path, ["virtio_pci", "virtio_balloon"], BALLOON_SCRIPT, "--balloon",
                "256M", "--memory", "512M", "--stats", str(stats))
    used = json.loads(stats.read_text())
    balloon = used["balloon"]
    assert balloon["bytes"] in (0, 256 * MIB)  # 0: the driver's reset on its way out
    assert balloon["reported_bytes"] > 90 * MIB
    assert 20 * MIB < balloon["guest_free_bytes"] < 256 * MIB
    assert used["guest_resident_bytes"] < 200 * MIB


FULL_SCRIPT = """
head -c 25165824 /dev/urandom > /tmp/data
md5sum < /tmp/data
echo ready
dd if=/tmp/data of=/dev/DISK bs=1M oflag=direct && echo written
"""


@pytest.fixture
def small(tmp_path):
    """A folder that has room for 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a full file system needs a mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("bus, disk, form", [("virtio", "vda", "raw"), ("nvme", "nvme0n1", "raw"),
                                             ("virtio", "vda", "qcow2"), ("nvme", "nvme0n1", "qcow2")])
@pytest.mark.parametrize("policy", ["pause", "report"])
def test_host_without_room(trapeze, small, start, tmp_path, bus, disk, form, policy):
    """A write that the host has no room for: an error, or a pause in which room can be made, after
    which nothing is lost."""
    subprocess.run([trapeze, "image", "create", "-f", form, small / "disk", "64M"], check=True,
                   capture_output=True)
    m = start_devices(start, tmp_path, ["virtio_pci", "virtio_blk"],
                      FULL_SCRIPT.replace("DISK", disk), "--disk",
                      f"{small}/disk,format={form},if={bus},werror={policy}")
    sums = m.expect("ready", SECONDS)
    if policy == "pause":
        assert b"paused" in m.process.stderr.readline()
        assert b"written" not in m.output
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        m.kill(signal.SIGCONT)
    assert m.wait(SECONDS) == 0
    output = m.output.decode()
    assert ("written" in output) == (policy == "pause"), output
    if form == "qcow2":  # 3: clusters that nobody uses
        assert subprocess.run(["qemu-img", "check", "-q", small / "disk"]).returncode in (0, 3)
    if policy == "pause":
        subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", small / "disk",
                        tmp_path / "raw"], check=True)
        data = (tmp_path / "raw").read_bytes()[:24 * MIB]
        assert hashlib.md5(data).hexdigest() in sums, sums


REBOOT_SCRIPT = """
for disk in vda nvme0n1; do
	head -c 8 /dev/$disk
	echo
done
dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null &
if [ "$(head -c 6 /dev/vda)" != second ]; then
	for disk in vda nvme0n1; do
		echo second | dd of=/dev/$disk conv=notrunc,fsync 2>/dev/null
	done
	reboot -f
fi
wait
"""


def test_reboot_with_devices(start, tmp_path):
    """Nothing of the first run reaches into the second."""
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    for path in first, second:
        path.write_bytes(b"first   ")
        os.truncate(path, 16 * MIB)
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio_blk", "virtio_console", "virtio-rng",
                                        "virtio_balloon"], REBOOT_SCRIPT, "--disk", str(first),
                      "--disk", f"{second},if=nvme", "--rng", "--console", "none", "--balloon",
                      "400M", "--watchdog", "reset", "--vcpus", "2")
    assert [out.split().count(word) for word in ["first", "second"]] == [2, 2], out
