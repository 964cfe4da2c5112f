"""A whole Debian from its disk: `trapeze image debian` makes it, `trapeze run --image` boots it.

Each test writes to an image of its own on top of the disk (conftest.py). TRAPEZE_LONG=1 moves a GiB by
ssh instead of some MiB, boots every kind of disk, and has the guest install from the mirror.
"""

import hashlib
import os
import subprocess

import pytest

from conftest import LONG
from debian_guest import boot
from test_cli import call, refused

MIB = 1 << 20
TRANSFER = 1024 * MIB if LONG else 16 * MIB


def check_transfer(guest, size):
    """There and back again, with the sums that each side counts."""
    data = hashlib.shake_256(b"transfer").digest(MIB) * (size // MIB)
    there = guest.ssh("tee /root/data | sha256sum", data).split()[0].decode()
    assert there == hashlib.sha256(data).hexdigest()
    assert guest.ssh("cat /root/data") == data


# A package of a thousand files, installed as any other.
INSTALL = r"""
set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/p
printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: p <p@p>\nDescription: p\n' > /tmp/p/DEBIAN/control
for i in $(seq 1000); do echo $i > /tmp/p/usr/share/p/$i; done
dpkg-deb -b /tmp/p /tmp/p.deb > /tmp/log
apt-get -q -y install /tmp/p.deb > /tmp/log 2>&1
dpkg --verify p
sync
ls /usr/share/p | wc -l
"""


def check_file_systems(guest):
    """Each made, filled, unmounted, checked and read again."""
    for make, check in [("mkfs.ext4 -q -F", "fsck.ext4 -f -n"), ("mkfs.xfs -q -f", "xfs_repair -n"),
                        ("mkfs.btrfs -q -f", "btrfs check")]:
        guest.run(f"{make} /dev/vdb && mount /dev/vdb /mnt && cp -a /usr/bin /mnt && umount /mnt"
                  f" && {check} /dev/vdb > /tmp/log 2>&1 && mount /dev/vdb /mnt"
                  " && diff -r --no-dereference /usr/bin /mnt/bin && umount /mnt")


def test_debian(trapeze, debian, disk, tmp_path, start):
    second = tmp_path / "second.qcow2"
    assert call(trapeze, "image", "create", str(second), "400M").returncode == 0
    guest = boot(start, debian, disk, "--disk", str(second))
    guest.log_in()
    assert guest.run("systemctl is-system-running --wait") == "running\n"
    assert guest.run("findmnt -n -o SOURCE,FSTYPE /").split() == ["/dev/vda", "ext4"]
    check_transfer(guest, TRANSFER)
    check_file_systems(guest)
    assert guest.ssh("sh", INSTALL.encode()) == b"1000\n"
    guest.power_off()
    subprocess.run(["qemu-img", "check", "-q", second], check=True)


def test_what_was_written_stays(debian, disk, start):
    guest = boot(start, debian, disk)
    guest.log_in()
    guest.run("cp /usr/bin/perl /root/p && sha256sum < /usr/bin/perl > /root/sum")
    guest.power_off()
    guest = boot(start, debian, disk)
    guest.log_in()
    guest.run("test \"$(sha256sum < /root/p)\" = \"$(cat /root/sum)\"")
    guest.run("! journalctl -b -p warning _TRANSPORT=kernel | grep -i ext4")
    guest.power_off()


@pytest.mark.skipif(not LONG, reason="TRAPEZE_LONG=1 boots every kind of disk")
@pytest.mark.parametrize("keys", ["if=nvme", "if=virtio"])
def test_kinds_of_disks(debian, disk, keys, start):
    guest = boot(start, debian, f"{disk},{keys}", "--vcpus", "2")
    guest.log_in()
    assert guest.run("systemctl is-system-running --wait") == "running\n"
    guest.run("apt-get -q -y update > /tmp/log 2>&1 && apt-get -q -y install hello > /tmp/log 2>&1")
    assert guest.run("hello") == "Hello, world!\n"
    guest.power_off()


# Images that cannot be booted, and what the message must have.

def ext4(path, folder):
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", folder, path, "8M"], check=True,
                   capture_output=True, env=environment)


@pytest.mark.parametrize("make, words", [
    (lambda path, folder: None, ["No such file"]),
    (lambda path, folder: path.write_bytes(bytes(MIB)), ["no ext4 file system"]),
    (ext4, ["no boot in /"]),
    (lambda path, folder: ((folder / "boot").mkdir(), ext4(path, folder)), ["no vmlinuz-* in /boot"]),
    (lambda path, folder: ((folder / "boot/vmlinuz-1").mkdir(parents=True), ext4(path, folder)),
     ["vmlinuz-1", "not a regular file"]),
])
def test_nothing_to_boot(trapeze, tmp_path, make, words):
    folder, path = tmp_path / "folder", tmp_path / "image"
    folder.mkdir()
    make(path, folder)
    refused(call(trapeze, "run", "--image", f"{path},format=raw"), str(path), *words)


@pytest.mark.parametrize("args, words", [
    (["--size", "1M"], ["--size", "256 MiB"]),
    (["--hostname", "a b"], ["--hostname a b"]),
    (["--packages", "a;b"], ["--packages a;b"]),
    (["--suite", "no/such"], ["--suite no/such"]),
    (["--ssh-key", "/dev/null"], ["--ssh-key /dev/null"]),
    (["--ssh-key", "nope"], ["--ssh-key nope", "No such file"]),
])
def test_bad_options_of_debian(trapeze, tmp_path, args, words):
    refused(call(trapeze, "image", "debian", str(tmp_path / "x.qcow2"), *args), *words)
    assert not list(tmp_path.iterdir())


def test_debian_without_mmdebstrap(trapeze, tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "apt-get").write_text("#!/bin/sh\necho http://localhost/ bookworm bookworm main\n")
    (fake / "apt-get").chmod(0o755)
    done = call(trapeze, "image", "debian", str(tmp_path / "x.qcow2"),
                env={**os.environ, "PATH": str(fake)})
    refused(done, "package mmdebstrap")
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]
