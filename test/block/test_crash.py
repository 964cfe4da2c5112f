"""Ends at bad moments: killed, without power, without space. What was flushed is there."""

import os
import random
import struct
import subprocess
import time

import pytest

import powerloss

IMAGES = ["--cluster-size=64K image 8M", "--cluster-size=4K -b backing.raw image",
          "--cluster-size=512B --refcount-bits=64 image 8M", "--version=2 --cluster-size=1K image 8M"]
KILLS = 4
MOMENTS = 40


def make(tools, options):
    (tools.folder / "backing.raw").write_bytes(bytes(8 << 20))
    tools.image("create", *options.split())


def kill_soon(tools, rng, seed, threads):
    with subprocess.Popen([tools.driver_path, "churn", "image", "log", str(seed)]
                          + (["threads"] if threads else []), cwd=tools.folder,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "started\n"
        time.sleep(rng.random() * 0.5)
        child.kill()
        assert child.stderr.read() == ""


def unlocked(tools):
    """The kernel may still be busy with the requests of the dead, whose locks it then has, too."""
    for _ in range(500):
        if tools.run("qemu-io", "-f", "qcow2", "-c", "quit", "image", status=None).returncode == 0:
            return
        time.sleep(0.02)
    raise AssertionError("the image stays locked")


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("options", IMAGES)
def test_kill(tools, options, threads):
    """Again and again, each time on what the time before has left."""
    rng = random.Random(options)
    make(tools, options)
    for seed in range(KILLS):
        kill_soon(tools, rng, seed, threads)
        unlocked(tools)
        tools.check("image", leaks=True)
        tools.drive("verify", "image", "log")
    tools.image("check", "--repair", "image")
    tools.check("image")
    tools.drive("verify", "image", "log")


def log_of(final, marks):
    """The log at some moment: what was flushed is from the marks, what was started from the end."""
    out = bytearray(final)
    for at in range(8, len(final), 12):
        flushed = struct.unpack_from("=I", marks, at + 8)[0] if len(marks) >= len(final) else 0
        struct.pack_into("=I", out, at + 8, flushed)
    return out


@pytest.mark.parametrize("options", IMAGES)
def test_power_loss(tools, options):
    """Of the writes that no sync covers, the disk may have any."""
    rng = random.Random(options)
    make(tools, options)
    folder = tools.folder
    start = (folder / "image").read_bytes()
    tools.drive("churn", "image", "log", 1, "threads", 300, env=dict(
        os.environ, LD_PRELOAD=tools.powerloss_path, POWERLOSS_PREFIX=str(folder / "image"),
        POWERLOSS_JOURNAL=str(folder / "journal"), POWERLOSS_MARKS=str(folder / "imagemarks")))
    records = powerloss.load(folder / "journal")
    syncs = [i for i, record in enumerate(records) if record[0] == "s"]
    assert len(syncs) > 10
    final = (folder / "log").read_bytes()
    flushed = 0
    for n in range(MOMENTS):
        moment = rng.randrange(len(records)) if n % 2 else rng.choice(syncs) + rng.randrange(6)
        (folder / "image").write_bytes(powerloss.image_at(start, records, moment, rng))
        (folder / "log").write_bytes(log_of(final, powerloss.marks_at(records, moment)))
        tools.check("image", leaks=True)
        flushed += int(tools.drive("verify", "image", "log").stdout.split()[0])
    assert flushed > 100


@pytest.fixture
def small_disk(tools):
    """How to run a command with a file system of 3 MiB at ./small; root or a user namespace does it."""
    script = 'mount -t tmpfs -o size=3M none small && exec "$@"'
    how = (["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-r", "-m"]) + [
        "sh", "-ec", script, "sh"]
    (tools.folder / "small").mkdir()
    if tools.run(*how, "true", status=None).returncode:
        pytest.skip("neither root nor user namespaces: no small file system")
    return how


@pytest.mark.parametrize("options", ["", "--cluster-size=512B", "--cluster-size=4K"])
def test_disk_full(tools, small_disk, options):
    """Writes fail with ENOSPC, the image stays sound, and the same writes work once there is room."""
    script = """
        T=$1 D=$2; shift 2
        $T image create "$@" small/image 16M
        dd if=/dev/zero of=small/ballast bs=64k count=16 status=none
        $D fill small/image 1 0 1048576
        $D fill small/image 2 1048576 8388608
        qemu-img check -q small/image || test $? -eq 3
        rm small/ballast
        $D fill small/image 3 1048576 1048576
        qemu-img check -q small/image || test $? -eq 3
        qemu-io -r -f qcow2 -c "read -P 1 0 1M" -c "read -P 3 1M 1M" small/image
    """
    from conftest import TRAPEZE
    done = tools.run(*small_disk, "sh", "-exc", script, "sh", TRAPEZE, tools.driver_path,
                     *options.split())
    words = [line for line in done.stdout.splitlines() if line.split()[0] in ("write", "flush", "close")]
    assert words[:3] == ["write ok", "flush ok", "close ok"], done
    assert words[3] == "write No space left on device", done
    assert words[6:] == ["write ok", "flush ok", "close ok"], done
    assert "verification failed" not in done.stdout, done


def test_retry_after_disk_full(tools, small_disk):
    """In one process: the request that found no room is given again when there is some."""
    script = """
        T=$1 D=$2
        $T image create small/image 16M
        dd if=/dev/zero of=small/ballast bs=64k count=24 status=none
        $D retry small/image small/ballast
        qemu-img check -q small/image
    """
    from conftest import TRAPEZE
    done = tools.run(*small_disk, "sh", "-exc", script, "sh", TRAPEZE, tools.driver_path)
    assert "full" in done.stdout and "the rest went well" in done.stdout, done
