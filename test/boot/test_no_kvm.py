"""A host without /dev/kvm, or whose /dev/kvm may not be opened: what the user is told, and what runs all the same.

Each command sees a /dev of its own in namespaces of its own, so that the host's is left alone; whether there is a
KVM here does not matter.
"""

import shlex
import subprocess

import pytest

ENTER = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    done = subprocess.run([*ENTER, "mount -t tmpfs none /mnt"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no namespaces to hide /dev/kvm in: {done.stderr.strip()}")


def nothing(folder):
    """No node at all."""
    return []


def forbidden(folder):
    """A node that may not be opened, whoever asks: on a mount without devices that is EACCES."""
    kvm = folder / "kvm"
    kvm.touch()
    return [f"mount --bind /dev/null {kvm}", f"mount -o remount,bind,nodev {kvm}"]


def call(trapeze, dev, tmp_path, *args):
    folder = tmp_path / "dev"
    folder.mkdir()
    script = [*dev(folder), f"mount --rbind {folder} /dev", "exec " + shlex.join([trapeze, *args])]
    return subprocess.run([*ENTER, "\n".join(script)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)


WORDS = [
    (nothing, ["there is no /dev/kvm", "modprobe kvm_intel", "firmware"]),
    (forbidden, ["no permission to open /dev/kvm", "usermod -aG kvm"]),
]


@pytest.mark.parametrize("dev, words", WORDS)
def test_engine_kvm_says_why(trapeze, echo, tmp_path, dev, words):
    done = call(trapeze, dev, tmp_path, "run", "--engine", "kvm", "--kernel", echo)
    assert done.returncode == 1, done
    assert done.stderr.startswith("trapeze: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not done.stdout, done.stdout


@pytest.mark.parametrize("dev, words", WORDS)
def test_info_says_why(trapeze, tmp_path, dev, words):
    done = call(trapeze, dev, tmp_path, "info")
    assert done.returncode == 0 and not done.stderr, done
    lines = [line for line in done.stdout.splitlines() if line.startswith("KVM ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stdout
    chosen = [line for line in done.stdout.splitlines() if line.startswith("auto takes")]
    assert len(chosen) == 1 and "because " + words[0] in chosen[0] and "kvm," not in chosen[0], done.stdout


@pytest.mark.parametrize("dev, words", WORDS)
def test_auto_does_without(trapeze, echo, tmp_path, dev, words):
    done = call(trapeze, dev, tmp_path, "run", "--kernel", echo, "--timeout", "1")
    assert done.returncode == 4, done  # it ran, until its time was over
    assert "kvm" not in done.stderr, done.stderr
