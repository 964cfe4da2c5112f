"""Runs a script of the workloads in a guest and natively, from the same files.

Scripts find the image's files behind $IMAGE, which is empty in the guest, and start a program that
they made themselves with $RUN before it, so that it has the image's libraries everywhere.
"""

import pathlib
import re
import shutil
import subprocess

from conftest import LONG, image
from guest_image import link_applets, loader_command, native_command
from workload_image import GUEST, KERNEL, workload_image

SECONDS = 2400 if LONG else 300
# What a kernel under these loads may say at level warning.
EXPECTED_LOG = [
    r"\]  #\d+$",  # its list of CPUs goes on
    r"hrtimer: interrupt took \d+ ns",  # the host had other work
    r"uses deprecated remap_file_pages",  # a stressor's subject
    r"__vm_enough_memory: .* comm: stress-ng-opcod",  # whose random opcodes are system calls now and then
    r"umip_printk: \d+ callbacks suppressed",  # the same, of SGDT and its kin
]


def make_tools(tools, root):
    """Fills the folder that is to be $PATH: busybox and the image's programs."""
    link_applets(tools, image("busybox"))
    for program in (root / "bin").glob("*"):
        wrapper = tools / program.name
        wrapper.unlink(missing_ok=True)
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(native_command(root, program.name))} "$@"\n')
        wrapper.chmod(0o755)


def run_native(tmp_path, name, words):
    """The lines that a script prints on the host's CPU."""
    root, _ = workload_image(name)
    tools, work = tmp_path / "tools", tmp_path / "work"
    make_tools(tools, root)
    work.mkdir()
    environment = {"PATH": str(tools), "IMAGE": str(root), "RUN": " ".join(loader_command(root)),
                   "OPENSSL_CONF": str(root / "etc/openssl.cnf")}
    done = subprocess.run([tools / "sh", GUEST / words[0], *words[1:]], cwd=work, env=environment,
                          stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def run_guest(start, tmp_path, name, words, vcpus, seconds=SECONDS, kernel=None, extra=None):
    """The lines between the marks of workload/init; extra is a folder to have at /extra."""
    _, initrd = workload_image(name)
    if extra:
        initrd = str(add_folder(tmp_path, initrd, extra))
    m = start("--kernel", kernel or image(KERNEL), "--initrd", initrd, "--append",
              "console=ttyS0 quiet rdinit=/workload/init panic=-1 workload=" + ",".join(words),
              "--vcpus", str(vcpus), "--memory", "1G", "--timeout", str(seconds))
    status = m.wait(seconds + 10)
    output = m.output.decode(errors="replace").replace("\r\n", "\n")
    assert status == 0, output[-3000:] + m.errors()
    log = re.findall(r"^log: .*", output, re.M)
    assert not [line for line in log if not re.search("|".join(EXPECTED_LOG), line)], output
    return re.search(r"^== begin\n(.*)^== end", output, re.M | re.S)[1].splitlines()


def add_folder(tmp_path, initrd, folder):
    """A copy of the initial RAM disk with a folder's files at /extra."""
    (tmp_path / "root").mkdir()
    shutil.copytree(folder, tmp_path / "root/extra")
    out = tmp_path / "initramfs.cpio"
    files = subprocess.run("find . | cpio -o -H newc -R 0:0 --quiet", shell=True, check=True,
                           cwd=tmp_path / "root", capture_output=True).stdout
    out.write_bytes(pathlib.Path(initrd).read_bytes() + files)
    return out
