"""Disks that a machine cannot have: one line each that names the file and the reason, and status 1."""

import os
import subprocess

import pytest

from test_cli import call, refused

MIB = 1 << 20


def image(trapeze, *words):
    subprocess.run([trapeze, "image", *words], check=True, capture_output=True)


def make_missing_backing(trapeze, path):
    base = path.with_name("base")
    image(trapeze, "create", base, "1M")
    image(trapeze, "create", "--backing", base, path)
    base.unlink()


def make_loop(trapeze, path):
    """Three files, the last of which has the first behind it."""
    first, second = path.with_name("first"), path.with_name("second")
    image(trapeze, "create", first, "1M")
    image(trapeze, "create", "--backing", first, second)
    image(trapeze, "create", "--backing", second, path)
    image(trapeze, "rebase", "-u", "-b", path, "-F", "qcow2", first)


def make_wrong_backing(trapeze, path):
    base = path.with_name("base")
    base.write_bytes(bytes(MIB))
    image(trapeze, "create", "--backing", base, "-F", "raw", path)
    image(trapeze, "rebase", "-u", "-b", base, "-F", "qcow2", path)


# How to make the disk, what to add to its path, and words of the refusal.
BAD = {
    "missing": (lambda trapeze, path: None, "", ["disk: No such file"]),
    "missing backing file": (make_missing_backing, "", ["base: No such file"]),
    "backing loop": (make_loop, "", ["loop"]),
    "backing of another format": (make_wrong_backing, "", ["base: not a qcow2 image"]),
    "wrong format": (lambda trapeze, path: path.write_bytes(bytes(MIB)), ",format=qcow2",
                     ["disk: not a qcow2 image"]),
    "cut": (lambda trapeze, path: (image(trapeze, "create", path, "1M"), os.truncate(path, 100)), "",
            ["disk", "damaged header"]),
    "a folder": (lambda trapeze, path: path.mkdir(), "", ["disk: Is a directory"]),
}


@pytest.mark.parametrize("bus", ["virtio", "nvme"])
@pytest.mark.parametrize("kind", BAD)
def test_refused(trapeze, echo, tmp_path, kind, bus):
    make, keys, words = BAD[kind]
    make(trapeze, tmp_path / "disk")
    refused(call(trapeze, "run", "--kernel", echo, "--disk", f"{tmp_path}/disk,if={bus}{keys}"), *words)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_locked_by_another_machine(start, trapeze, echo, tmp_path, form):
    """One machine writes, or any number of them reads; what is behind a disk counts as read."""
    disk, top = tmp_path / "disk", tmp_path / "top"
    image(trapeze, "create", "-f", form, disk, "1M")
    image(trapeze, "create", "--backing", disk, "-F", form, top)

    def other(path, *keys):
        words = ",".join([str(path), *keys])
        return call(trapeze, "run", "--kernel", echo, "--disk", words, input="Q", stdin=None)

    def refused_disk(path, *keys):
        done = other(path, *keys)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
        assert f"{disk}: in use" in done.stderr or f"{path}: in use" in done.stderr, done

    def machine_with(*words):
        m = start("--kernel", echo, "--disk", ",".join(map(str, words)))
        m.expect("ready")
        return m

    def end(m):
        m.send("Q")
        assert m.wait() == 0

    writer = machine_with(disk)
    refused_disk(disk)
    refused_disk(disk, "readonly")
    refused_disk(top)
    end(writer)
    reader = machine_with(disk, "readonly")
    assert other(disk, "readonly").returncode == 0
    refused_disk(disk)
    end(reader)
    above = machine_with(top)
    assert other(disk, "readonly").returncode == 0
    refused_disk(disk)
    end(above)
    assert other(disk).returncode == 0


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_read_only_file_system(trapeze, echo, tmp_path, form):
    """Refused for writing; with readonly it is a disk as any other."""
    folder = tmp_path / "folder"
    folder.mkdir()
    image(trapeze, "create", "-f", form, folder / "disk", "1M")
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    script = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && exec \"$@\""

    def run(*words):
        return subprocess.run([*namespace, "sh", "-c", script, "sh", *words], capture_output=True,
                              text=True, timeout=60, input="Q")

    done = run("true")
    if done.returncode:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    disk = f"{folder}/disk"
    refused(run(trapeze, "run", "--kernel", echo, "--disk", disk), f"{disk}: Read-only file system")
    done = run(trapeze, "run", "--kernel", echo, "--disk", f"{disk},readonly")
    assert done.returncode == 0 and not done.stderr, done
    refused(run(trapeze, "image", "resize", "-f", form, disk, "2M"), f"{disk}: Read-only file system")


def test_no_permission(trapeze, echo, tmp_path):
    disk = tmp_path / "disk"
    image(trapeze, "create", disk, "1M")
    disk.chmod(0)
    command = [trapeze, "run", "--kernel", echo, "--disk", str(disk)]
    if os.geteuid() == 0:  # and without the rights that go with it
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    refused(done, f"{disk}: Permission denied")
