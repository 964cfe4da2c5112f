"""The userland of test_workload.py: Debian's stress-ng and openssl, with the libraries they load.

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

import pytest

from conftest import image

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "workload"  # what runs in the guest
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
PROGRAMS = {"stress-ng": "usr/bin/stress-ng", "openssl": "usr/bin/openssl"}
LIBRARY_DIRS = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"]
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "lib/x86_64-linux-gnu"  # where Debian's loader looks without being told


def output_of(*command, **how):
    return subprocess.run(command, check=True, capture_output=True, text=True, **how).stdout


class Packages:
    """Debian packages by name, downloaded and unpacked when first asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.depends = {}

    def unpack(self, name):
        """The folder with the package's files."""
        root = self.folder / name
        if not root.exists():
            temp = self.folder / "download"
            shutil.rmtree(temp, ignore_errors=True)
            temp.mkdir(parents=True)
            subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name],
                           cwd=temp, check=True, capture_output=True)
            deb, = temp.glob("*.deb")
            subprocess.run(["dpkg-deb", "-R", deb, temp / "root"], check=True)
            (temp / "root").rename(root)
            shutil.rmtree(temp)
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


def closure(packages):
    """The libraries that the programs load, directly or not: path by soname."""
    found = {}
    work = [(package, packages.unpack(package) / path) for package, path in PROGRAMS.items()]
    while work:
        package, path = work.pop()
        for soname in sonames(path):
            if soname not in found:
                owner, library = packages.find_library(package, soname)
                found[soname] = library
                work.append((owner, library.resolve()))
    return found


def make_root(root, packages):
    """Fills the folder whose files the guest gets."""
    for folder in ["bin", "lib64", LIBRARIES, "etc", "workload"]:
        (root / folder).mkdir(parents=True)
    for package, path in PROGRAMS.items():
        shutil.copy2(packages.unpack(package) / path, root / "bin" / package)
    for soname, path in closure(packages).items():
        shutil.copy2(path, root / LIBRARIES / soname)
    shutil.move(root / LIBRARIES / pathlib.Path(LOADER).name, root / LOADER)
    shutil.copy2(packages.unpack("openssl") / "etc/ssl/openssl.cnf", root / "etc/openssl.cnf")
    for script in GUEST.iterdir():
        shutil.copy2(script, root / "workload" / script.name)


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


def workload_image():
    """The native folder and the initial RAM disk, made anew if a script has changed."""
    folder = CACHE / "trapeze/workload"
    root, out = folder / "root", folder / "initramfs.cpio"
    base = image("initramfs")
    if not up_to_date(out, [pathlib.Path(base), pathlib.Path(__file__), *GUEST.iterdir()]):
        if not shutil.which("apt-get") or not shutil.which("readelf"):
            pytest.skip("the workloads' programs come from Debian packages")
        shutil.rmtree(root, ignore_errors=True)
        try:
            make_root(root, Packages(folder / "packages"))
        except subprocess.CalledProcessError as e:
            pytest.skip(f"cannot download the workloads' packages: {e.stderr}")
        archive(root, base, out)
    return root, str(out)
