"""The files of the guests, and the same programs for the host."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import guest_image
from guest_image import LIBRARIES, LOADER

GUEST = pathlib.Path(__file__).resolve().with_name("guest")
CACHE = guest_image.CACHE / "bench"
# What each program's folder has, as guest_image takes it.
PROGRAMS = {
    "sysbench": {"programs": [("sysbench", "usr/bin/sysbench")]},
    "openssl": {"programs": [("openssl", "usr/bin/openssl")]},
    "7zz": {"programs": [("7zip", "usr/bin/7zz")]},
    "stress-ng": {"programs": [("stress-ng", "usr/bin/stress-ng")]},
    "hackbench": {"programs": [("rt-tests", "usr/bin/hackbench")]},
    "tcc": {
        "programs": [("tcc", "usr/bin/tcc")],
        "files": [("tcc", "usr/lib/x86_64-linux-gnu/tcc"), ("libc6-dev", "usr/include"),
                  ("linux-libc-dev", "usr/include")],
    },
}


class Program:
    """A program of a Debian package: a folder that is complete, and an archive of it."""

    def __init__(self, name):
        self.name = name
        self.root = CACHE / name / "root"
        self.archive = CACHE / name / "files.cpio"
        self.native = " ".join(guest_image.native_command(self.root, name))

    def make(self):
        inputs = map(pathlib.Path, [__file__, guest_image.__file__])
        if not guest_image.up_to_date(self.archive, inputs):
            shutil.rmtree(self.root, ignore_errors=True)
            guest_image.install(self.root, PROGRAMS[self.name])
            guest_image.archive(self.root, [], self.archive)


class Image:
    """What the rows need, and the paths that it has for each way of running."""

    def __init__(self, build, base, works):
        self.kernels = build.resolve() / "bench/guest"
        self.base = base
        self.programs = [Program(n) for n in sorted({n for w in works for n in w.programs})]
        for program in self.programs:
            program.make()

    def native_words(self, work):
        command = work.command
        for p in self.programs:
            command = command.replace("@" + p.name, p.native)
        roots = {p.name: p.root for p in self.programs}
        return command.format(dir=self.folder, sources=GUEST, **roots).split()

    def guest_words(self, work):
        roots = {p.name: "" for p in self.programs}
        return work.command.replace("@", "/bin/").format(
            dir="/bench", sources="/bench/sources", **roots).split()

    def fill(self, folder):
        """The suite's own programs, for both."""
        for name in ["kernels", "small", "small-dynamic", "first"]:
            shutil.copy2(self.kernels / name, folder / name)
        for name in ["init", "make", "job"]:
            shutil.copy2(GUEST / name, folder / name)

    @contextlib.contextmanager
    def native_folder(self, busybox):
        """Where rows run on the host: in memory, and with the guest's tools."""
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=memory) as temp:
            self.folder = pathlib.Path(temp) / "bench"
            work, tools = pathlib.Path(temp) / "tmp", pathlib.Path(temp) / "bin"
            for folder in [self.folder, work]:
                folder.mkdir()
            self.fill(self.folder)
            guest_image.link_applets(tools, busybox)
            yield {"cwd": work, "env": {"PATH": str(tools), "HOME": str(work)}}

    def write(self, out, plan):
        """Makes the initial RAM disk whose init runs the rows of a plan."""
        with tempfile.TemporaryDirectory() as temp:
            root = pathlib.Path(temp)
            (root / "bench/sources").mkdir(parents=True)
            self.fill(root / "bench")
            for source in GUEST.glob("*.[ch]"):
                shutil.copy2(source, root / "bench/sources" / source.name)
            if not self.programs:  # they bring their own
                add_host_libraries(root)
            lines = [f"{work.name} {' '.join(self.guest_words(work))}\n" for work in plan]
            (root / "bench/plan").write_text("".join(lines))
            guest_image.archive(root, [self.base, *(p.archive for p in self.programs)], out)


def add_host_libraries(root):
    """What the dynamic one of the small programs loads, as it does on the host."""
    for path in [LOADER, f"{LIBRARIES}/libc.so.6"]:
        (root / path).parent.mkdir(parents=True)
        shutil.copy2(pathlib.Path("/") / path, root / path)


def busybox():
    script = pathlib.Path(__file__).resolve().parents[1] / "script/image"
    done = subprocess.run([script, "busybox"], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()
