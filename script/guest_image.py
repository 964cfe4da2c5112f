"""Userlands for guests, of Debian's packages: what the boot tests and the benchmarks share.

Programs come from packages that are unpacked in the cache; nothing is installed. Libraries are found
the way the packages declare them: an ELF file names the sonames that it needs, and each is looked for
in the packages that the file's own package depends on. What the host has installed plays no part, so
every host of one Debian release makes the same image.

What a userland has beside busybox is a dictionary: "programs", which bring their libraries and are
found in bin, and "files", files or folders; each as its package, its path there, and its path in the
userland if that differs.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "trapeze"
LIBRARY_DIRS = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"]
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "lib/x86_64-linux-gnu"  # where Debian's loader looks without being told


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
    done.check_returncode()
    deb, = folder.glob("*.deb")
    return deb


class Packages:
    """Debian packages by name, downloaded and unpacked when first asked for."""

    def __init__(self, folder=CACHE / "packages"):
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


def install(root, contents):
    """Fills the folder whose files the guest gets."""
    packages = Packages()
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


def loader_command(root):
    """What starts a program of a userland on the host, with the libraries that are there."""
    return [str(root / LOADER), "--library-path", str(root / LIBRARIES)]


def native_command(root, program):
    """How to start a userland's program on the host."""
    return [*loader_command(root), str(root / "bin" / program)]


def link_applets(folder, busybox):
    """Makes a folder of busybox' tools, for a PATH on the host."""
    folder.mkdir()
    for applet in output_of(busybox, "--list").split():
        (folder / applet).symlink_to(busybox)


def archive(root, bases, out):
    """Writes the archives bases, and after them the files under root, as one initial RAM disk."""
    names = "\n".join(sorted(str(p.relative_to(root)) for p in root.rglob("*"))) + "\n"
    files = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=root,
                           input=names.encode(), check=True, capture_output=True).stdout
    temp = out.with_suffix(".new")
    with open(temp, "wb") as f:
        for base in bases:
            f.write(pathlib.Path(base).read_bytes())
            f.write(b"\0" * (-f.tell() % 4))  # an archive starts at a multiple of four bytes
        f.write(files)
    temp.rename(out)


def up_to_date(out, inputs):
    return out.exists() and all(p.stat().st_mtime <= out.stat().st_mtime for p in inputs)
