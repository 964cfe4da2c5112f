"""The NVMe controller: cloud kernels have its driver and ext4 built in, and boot from it."""

import hashlib
import shutil
import subprocess

import pytest

from conftest import image
from device_run import SECONDS, check_log, run_devices
from workload_image import KERNEL
from test_virtio import make_disk, read_ext4, tool

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
exec </dev/console >/dev/console 2>&1
stty -onlcr
echo "== begin"
mount | grep ' / '
cd /root
sha256sum -c sums
head -c 4000000 /dev/urandom > data
sha256sum data > sums.new
sync
echo 3 > /proc/sys/vm/drop_caches
sha256sum -c sums.new
rm data
echo done > done
echo "== end"
dmesg -r | sed -n 's/^<[0-4]>/log: /p'
mount -o remount,ro /
poweroff -f
"""


def make_root(tmp_path):
    """An ext4 image with busybox, a file and its sum."""
    root = tmp_path / "root"
    for folder in ["bin", "dev", "proc", "sys", "root"]:
        (root / folder).mkdir(parents=True)
    box = image("busybox")
    shutil.copy(box, root / "bin/busybox")
    for applet in subprocess.run([box, "--list"], capture_output=True, text=True,
                                 check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    make_disk(root / "root/file", 6, 3)
    digest = hashlib.sha256((root / "root/file").read_bytes()).hexdigest()
    (root / "root/sums").write_text(f"{digest}  file\n")
    out = tmp_path / "root.img"
    subprocess.run([tool("mke2fs"), "-q", "-t", "ext4", "-d", root, out, "128M"], check=True)
    return out


@pytest.mark.every_engine
def test_root_on_nvme(start, tmp_path):
    disk = make_root(tmp_path)
    m = start("--kernel", image(KERNEL), "--append",
              "console=ttyS0 quiet root=/dev/nvme0n1 rw init=/init panic=-1", "--disk",
              f"{disk},if=nvme", "--vcpus", "2", "--timeout", str(SECONDS))
    status = m.wait(SECONDS + 10)
    output = m.output.decode(errors="replace").replace("\r\n", "\n")
    assert status == 0, output[-3000:] + m.errors()
    assert "file: OK" in output and "data: OK" in output, output
    assert "ext4" in output
    check_log(output)
    assert read_ext4(disk, "/root/done") == "done\n"
    subprocess.run([tool("e2fsck"), "-fn", disk], check=True, capture_output=True)


SCRIPT = """
cat /sys/class/nvme/nvme0/serial /sys/class/nvme/nvme0/model
cat /sys/block/nvme0n1/size /sys/block/nvme0n1/queue/write_cache
ls /sys/block/nvme0n1/mq | wc -l
sha256sum /dev/nvme0n1
dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null
dd if=/tmp/data of=/dev/nvme0n1 bs=1M seek=1 oflag=direct 2>/dev/null
dd if=/dev/nvme0n1 bs=1M skip=1 count=8 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same
blkdiscard -o 4194304 -l 1048576 /dev/nvme0n1
dd if=/dev/nvme0n1 bs=1M skip=4 count=1 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c
cat /sys/block/nvme1n1/ro
echo 1 > /sys/class/nvme/nvme0/reset_controller
dd if=/dev/nvme0n1 bs=1M skip=1 count=3 iflag=direct 2>/dev/null | cmp -n 3145728 - /tmp/data && echo same
echo 1 > /sys/bus/pci/devices/0000:00:01.0/remove
ls /sys/block | grep -c nvme
echo 1 > /sys/bus/pci/rescan
sleep 1
ls /sys/block | grep -c nvme
grep nvme /proc/interrupts | head -1
"""


@pytest.mark.parametrize("append", ["", "pci=nomsi"])
def test_nvme_commands(start, tmp_path, append):
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    sums = make_disk(first, 32, 1), make_disk(second, 8, 2)
    out = run_devices(start, tmp_path, [], SCRIPT, "--disk", f"{first},if=nvme,serial=S1",
                      "--disk", f"{second},if=nvme,readonly", "--vcpus", "2",
                      append=append).splitlines()
    assert [line.strip() for line in out[:4]] == ["S1", "Trapeze disk", str(32 * 2048), "write back"]
    assert int(out[4]) == (1 if append else 2)
    assert out[5].split()[0] == sums[0]
    assert out[6:12] == ["same", "0", "1", "same", "1", "2"], out
    assert "MSI" in out[12] or append
    assert hashlib.sha256(second.read_bytes()).hexdigest() == sums[1]
