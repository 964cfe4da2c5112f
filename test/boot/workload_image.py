"""The userlands of the workloads: Debian's programs, with the libraries they load.

The programs come from Debian packages, unpacked in the cache; nothing is installed. Libraries are
found the way the packages declare them: an ELF file names the sonames that it needs, and each is
looked for in the packages that the file's own package depends on. What the host has installed plays
no part, so every host of one Debian release makes the same image.

The result is two things made of the same files: a folder that runs natively, for the expected
answers, and an initial RAM disk, which is script/image's with that folder's files after it (Linux
unpacks one archive after the other into the same file system).
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import image

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "workload"  # what runs in the guest
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
PACKAGES = CACHE / "trapeze/workload/packages"
KERNEL = "linux-image-cloud-amd64"
LIBRARY_DIRS = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"]
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "lib/x86_64-linux-gnu"  # where Debian's loader looks without being told
DEVELOPMENT = "usr/lib/x86_64-linux-gnu"
HEADERS = [
    ("libc6-dev", "usr/include"),
    ("linux-libc-dev", "usr/include/asm-generic"),
    ("linux-libc-dev", "usr/include/linux/errno.h"),
    ("linux-libc-dev", "usr/include/linux/limits.h"),
    ("linux-libc-dev", "usr/include/x86_64-linux-gnu/asm"),
    *[("libc6-dev", f"{DEVELOPMENT}/{name}")
      for name in ["crt1.o", "crti.o", "crtn.o", "libc_nonshared.a"]],
]
# What an image has beside busybox: programs, which bring their libraries and are found in bin, and
# files or folders; each as its package, its path there, and its path in the image if that differs.
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


def output_of(*command, **how):
    return subprocess.run(command, check=True, capture_output=True, text=True, **how).stdout


def download(package, folder):
    """The path of the package's .deb file, which is put into folder."""
    def get(what):
        return subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", what],
                              cwd=folder, capture_output=True, text=True)

    done = get(package)
    if done.returncode:
        # What the host has installed may come from elsewhere; then take the archive's.
        known = output_of("apt-cache", "madison", package)
        done = get(package + "=" + known.split("|")[1].strip()) if known else done
    if done.returncode:
        pytest.skip(f"cannot download {package}: {done.stderr.strip()}")
    deb, = folder.glob("*.deb")
    return deb


class Packages:
    """Debian packages by name, downloaded and unpacked when first asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.depends = {}

    def unpack(self, name):
        """The folder with the package's files."""
        root = self.folder / name
        if not root.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as temp:
                deb = download(name, pathlib.Path(temp))
                subprocess.run(["dpkg-deb", "-R", deb, f"{temp}/root"], check=True)
                os.rename(f"{temp}/root", root)
        return root

    def dependencies(self, name, soname):
        """The packages that one depends on, those named like the library first."""
        if name not in self.depends:
            control = (self.unpack(name) / "DEBIAN/control").read_text()
            field = re.search(r"^Depends: (.*)", control, re.M)
            self.depends[name] = re.findall(r"(?:^|, )([a-z0-9.+-]+)", field[1] if field else "")
        stem = soname.partition(".so")[0].lower()
        return sorted(self.depends[name], key=lambda d: not d.startswith(stem))

    def find_library(self, needer, soname):
        """The package, and the file in it, that gives what a file of package needer loads."""
        for package in [needer, *self.dependencies(needer, soname)]:
            for folder in LIBRARY_DIRS:
                path = self.unpack(package) / folder / soname
                if path.exists():
                    return package, path
        raise LookupError(f"no package that {needer} depends on has {soname}")


def sonames(path):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d", path))


def closure(packages, programs):
    """The libraries that programs load, directly or not: path by soname."""
    found = {}
    work = [(package, packages.unpack(package) / path) for package, path, *_ in programs]
    while work:
        package, path = work.pop()
        for soname in sonames(path):
            if soname not in found:
                owner, library = packages.find_library(package, soname)
                found[soname] = library
                work.append((owner, library.resolve()))
    return found


def copy(source, target):
    """A file, or a folder whose files join those that are there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def make_root(root, packages, contents):
    """Fills the folder whose files the guest gets."""
    for package, path, *there in contents["programs"]:
        target = there[0] if there else f"bin/{pathlib.Path(path).name}"
        copy(packages.unpack(package) / path, root / target)
    libraries = closure(packages, contents["programs"])
    for soname, path in libraries.items():
        copy(path, root / LIBRARIES / soname)
    if libraries:
        copy(packages.unpack("libc6") / LIBRARIES / pathlib.Path(LOADER).name, root / LOADER)
    for package, path, *there in contents.get("files", []):
        copy(packages.unpack(package) / path, root / (there or [path])[0])
    copy(GUEST, root / "workload")


def patchable_kernel():
    """The cloud kernel and the folder of its modules, from one package."""
    image(KERNEL)
    known = CACHE / "trapeze/kernel" / KERNEL / "package"
    if not known.exists():
        pytest.skip("the modules of the kernel come from its Debian package")
    root = Packages(PACKAGES).unpack(known.read_text().strip())
    kernel, = root.glob("boot/vmlinuz-*")
    return kernel, root / "lib/modules"


def add_modules(root):
    _, folder = patchable_kernel()
    files = {path.stem: path for path in folder.rglob("*.ko")}
    for name in (GUEST / "modules").read_text().split("\n"):
        if name and not name.startswith("#"):
            copy(files[name], root / "modules" / f"{name}.ko")


def archive(root, base, out):
    """Writes base, and after it the files under root, as one initial RAM disk."""
    names = "\n".join(sorted(str(p.relative_to(root)) for p in root.rglob("*"))) + "\n"
    files = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=root,
                           input=names.encode(), check=True, capture_output=True).stdout
    temp = out.with_suffix(".new")
    # An archive has to start at a multiple of four bytes.
    before = pathlib.Path(base).read_bytes()
    temp.write_bytes(before + b"\0" * (-len(before) % 4) + files)
    temp.rename(out)


def up_to_date(out, inputs):
    return out.exists() and all(p.stat().st_mtime <= out.stat().st_mtime for p in inputs)


def workload_image(name):
    """The native folder and the initial RAM disk of that name, made anew if a script has changed."""
    folder = CACHE / "trapeze/workload" / name
    root, out = folder / "root", folder / "initramfs.cpio"
    base = image("initramfs")
    inputs = [path for path in GUEST.rglob("*") if path.is_file()]
    inputs += [pathlib.Path(base), pathlib.Path(__file__), pathlib.Path(image(KERNEL))]
    if not up_to_date(out, inputs):
        if not shutil.which("apt-get") or not shutil.which("readelf"):
            pytest.skip("the workloads' programs come from Debian packages")
        shutil.rmtree(root, ignore_errors=True)
        make_root(root, Packages(PACKAGES), IMAGES[name])
        if name == "patch":
            add_modules(root)
        archive(root, base, out)
    return root, str(out)
