"""Fixtures of the tests of disk images: where the programs are, and QEMU's tools as judges."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAPEZE = pathlib.Path(os.environ.get("TRAPEZE", ROOT / "build/src/cli/trapeze")).resolve()
BUILT = TRAPEZE.parents[2] / "test/block"


class Tools:
    """Programs, run in a folder of the test's own."""

    def __init__(self, folder):
        self.folder = folder
        self.driver_path = str(BUILT / "block_driver")
        self.powerloss_path = str(BUILT / "powerloss.so")

    def run(self, *command, status=0, **how):
        done = subprocess.run([str(word) for word in command], cwd=self.folder, text=True,
                              capture_output=True, timeout=600, stdin=subprocess.DEVNULL, **how)
        assert status is None or done.returncode == status, (command, done)
        return done

    def image(self, *words, **how):
        """trapeze image"""
        return self.run(TRAPEZE, "image", *words, **how)

    def qemu(self, *words, **how):
        """qemu-img"""
        return self.run("qemu-img", *words, **how)

    def io(self, image, *commands, fmt="qcow2", **how):
        """qemu-io: what it says on standard output"""
        return self.run("qemu-io", "-f", fmt, *[w for c in commands for w in ("-c", c)], image,
                        **how).stdout

    def drive(self, *words, **how):
        return self.run(self.driver_path, *words, **how)

    def check(self, image, leaks=False):
        """qemu-img check has nothing to say, or only leaks; and our own checker says the same, though
        it looks for leaks behind the file's end, too."""
        theirs = self.qemu("check", image, status=None)
        ours = self.image("check", image, status=None)
        assert theirs.returncode in ((0, 3) if leaks else (0,)), theirs
        assert ours.returncode in (theirs.returncode, 3 if leaks else 0), (ours, theirs)

    def same(self, a, b, fmt_a="raw", fmt_b="qcow2"):
        self.qemu("compare", "-f", fmt_a, "-F", fmt_b, a, b)


@pytest.fixture
def tools(tmp_path):
    for name in ("qemu-img", "qemu-io"):
        if not shutil.which(name):
            pytest.skip(f"no {name} (Debian: qemu-utils)")
    yield Tools(tmp_path)
    shutil.rmtree(tmp_path)  # images are large


def pattern(size, seed=1):
    """Content without long repetitions, with holes, that compresses somewhat."""
    import random
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        kind = rng.randrange(4)
        n = rng.choice((512, 4096, 40000, 200000))
        out += (bytes(n) if kind == 0 else rng.randbytes(n) if kind == 1
                else (rng.randbytes(64) * (n // 64 + 1))[:n])
    return bytes(out[:size])
