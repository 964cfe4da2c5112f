"""The userlands of the workloads: Debian's programs, with the libraries they load.

The result is two things made of the same files: a folder that runs natively, for the expected
answers, and an initial RAM disk, which is script/image's with that folder's files after it (Linux
unpacks one archive after the other into the same file system).
"""

import contextlib
import pathlib
import shutil
import subprocess

import pytest

import guest_image
from conftest import image
from guest_image import LIBRARIES

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "workload"  # what runs in the guest
KERNEL = "linux-image-cloud-amd64"
DEVELOPMENT = f"usr/{LIBRARIES}"
HEADERS = [
    ("libc6-dev", "usr/include"),
    ("linux-libc-dev", "usr/include/asm-generic"),
    ("linux-libc-dev", "usr/include/linux/errno.h"),
    ("linux-libc-dev", "usr/include/linux/limits.h"),
    ("linux-libc-dev", "usr/include/x86_64-linux-gnu/asm"),
    *[("libc6-dev", f"{DEVELOPMENT}/{name}")
      for name in ["crt1.o", "crti.o", "crtn.o", "libc_nonshared.a"]],
]
# What each image has beside busybox, as guest_image takes it.
IMAGES = {
    "stress": {
        "programs": [("stress-ng", "usr/bin/stress-ng"), ("openssl", "usr/bin/openssl")],
        "files": [("openssl", "etc/ssl/openssl.cnf", "etc/openssl.cnf")],
    },
    "tcc": {
        "programs": [("tcc", "usr/bin/tcc")],
        "files": [("tcc", f"{DEVELOPMENT}/tcc"), ("libc6", f"{LIBRARIES}/libm.so.6"), *HEADERS],
    },
    "luajit": {"programs": [("luajit", "usr/bin/luajit")]},
    "node": {
        "programs": [("nodejs", "usr/bin/node")],
        # Parts of node itself, which look for them at these paths.
        "files": [("node-acorn", "usr/share/nodejs/acorn/dist"),
                  ("node-acorn", "usr/share/nodejs/acorn-walk/dist"),
                  ("node-cjs-module-lexer", "usr/share/nodejs/cjs-module-lexer"),
                  ("node-undici", "usr/share/nodejs/undici/undici-fetch.js")],
    },
    "gcc": {
        "programs": [
            ("cpp-12", "usr/lib/gcc/x86_64-linux-gnu/12/cc1"),
            ("binutils-x86-64-linux-gnu", "usr/bin/x86_64-linux-gnu-as", "bin/as"),
            ("binutils-x86-64-linux-gnu", "usr/bin/x86_64-linux-gnu-ld.bfd", "bin/ld"),
        ],
        "files": [("libgcc-12-dev", "usr/lib/gcc/x86_64-linux-gnu/12/include"), *HEADERS],
    },
    "patch": {"programs": []},  # and the modules that workload/modules names
}


@contextlib.contextmanager
def skip_without_packages():
    try:
        yield
    except subprocess.CalledProcessError as e:
        pytest.skip(f"cannot download the workloads' packages: {e.stderr}")


def patchable_kernel():
    """The cloud kernel and the folder of its modules, from one package."""
    image(KERNEL)
    known = guest_image.CACHE / "kernel" / KERNEL / "package"
    if not known.exists():
        pytest.skip("the modules of the kernel come from its Debian package")
    with skip_without_packages():
        root = guest_image.Packages().unpack(known.read_text().strip())
    kernel, = root.glob("boot/vmlinuz-*")
    return kernel, root / "lib/modules"


def add_modules(root):
    _, folder = patchable_kernel()
    files = {path.stem: path for path in folder.rglob("*.ko")}
    for name in (GUEST / "modules").read_text().split("\n"):
        if name and not name.startswith("#"):
            guest_image.copy(files[name], root / "modules" / f"{name}.ko")


def workload_image(name):
    """The native folder and the initial RAM disk of that name, made anew if a script has changed."""
    folder = guest_image.CACHE / "workload" / name
    root, out = folder / "root", folder / "initramfs.cpio"
    base = image("initramfs")
    scripts = [path for path in GUEST.rglob("*") if path.is_file()]
    inputs = [pathlib.Path(p) for p in [base, image(KERNEL), __file__, guest_image.__file__, *scripts]]
    if not guest_image.up_to_date(out, inputs):
        if not shutil.which("apt-get") or not shutil.which("readelf"):
            pytest.skip("the workloads' programs come from Debian packages")
        shutil.rmtree(root, ignore_errors=True)
        with skip_without_packages():
            guest_image.install(root, IMAGES[name])
        guest_image.copy(GUEST, root / "workload")
        if name == "patch":
            add_modules(root)
        guest_image.archive(root, [base], out)
    return root, str(out)
