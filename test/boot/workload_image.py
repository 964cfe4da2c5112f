"""The userlands of the workloads: Debian's programs, with the libraries they load.

The result is two things made of the same files: a folder that runs natively, for the expected
answers, and an initial RAM disk, which is script/image's with that folder's files after it (Linux
unpacks one archive after the other into the same file system).
"""

import pathlib
import shutil
import subprocess

import pytest

import guest_image
from conftest import image

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "workload"  # what runs in the guest
# What each image has beside busybox, as guest_image takes it.
IMAGES = {
    "stress": {
        "programs": [("stress-ng", "usr/bin/stress-ng"), ("openssl", "usr/bin/openssl")],
        "files": [("openssl", "etc/ssl/openssl.cnf", "etc/openssl.cnf")],
    },
}


def workload_image(name):
    """The native folder and the initial RAM disk of that name, made anew if a script has changed."""
    folder = guest_image.CACHE / "workload" / name
    root, out = folder / "root", folder / "initramfs.cpio"
    base = image("initramfs")
    scripts = [path for path in GUEST.rglob("*") if path.is_file()]
    inputs = [pathlib.Path(p) for p in [base, __file__, guest_image.__file__, *scripts]]
    if not guest_image.up_to_date(out, inputs):
        if not shutil.which("apt-get") or not shutil.which("readelf"):
            pytest.skip("the workloads' programs come from Debian packages")
        shutil.rmtree(root, ignore_errors=True)
        try:
            guest_image.install(root, IMAGES[name])
        except subprocess.CalledProcessError as e:
            pytest.skip(f"cannot download the workloads' packages: {e.stderr}")
        guest_image.copy(GUEST, root / "workload")
        guest_image.archive(root, [base], out)
    return root, str(out)
