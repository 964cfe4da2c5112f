"""Programs in the guest, whose results the host's own CPU, or the programs themselves, can judge.

A script that prints the same on every machine runs in the guest and natively, from the same files.
By default a slice; with TRAPEZE_LONG=1 the sweep, and everything with two vCPUs, too.
"""

import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import LONG, image
from workload_image import GUEST, LIBRARIES, LOADER, workload_image

VCPUS = [1, 2] if LONG else [1]
SECONDS = 2400 if LONG else 300
KERNEL = "linux-image-cloud-amd64"
# What a kernel under this load may say at level warning.
EXPECTED_LOG = [
    r"\]  #\d+$",  # its list of CPUs goes on
    r"hrtimer: interrupt took \d+ ns",  # the host had other work
    r"uses deprecated remap_file_pages",  # a stressor's subject
]
# Key name to options of `openssl genpkey`; "-peer" is the other side of a key exchange.
KEYS = {"rsa": ["-algorithm", "RSA"], "ed25519": ["-algorithm", "ed25519"],
        "ed448": ["-algorithm", "ed448"]}
for name in ["x25519", "x448"]:
    KEYS[name] = KEYS[name + "-peer"] = ["-algorithm", name]
for name, curve in [("p256", "P-256"), ("p384", "P-384"), ("p521", "P-521"),
                    ("k256", "secp256k1")]:
    KEYS[name] = KEYS[name + "-peer"] = ["-algorithm", "EC", "-pkeyopt",
                                         "ec_paramgen_curve:" + curve]


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """native(SCRIPT, ARGUMENT...): the lines that a guest's script prints on the host's CPU."""
    root, _ = workload_image()
    folder = tmp_path_factory.mktemp("native")
    busybox = image("busybox")
    tools = folder / "bin"
    tools.mkdir()
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True,
                                 text=True).stdout.split():
        (tools / applet).symlink_to(busybox)
    (tools / "openssl").write_text(
        f'#!/bin/sh\nexec {root / LOADER} --library-path {root / LIBRARIES} '
        f'{root / "bin/openssl"} "$@"\n')
    (tools / "openssl").chmod(0o755)
    environment = {"PATH": str(tools), "OPENSSL_CONF": str(root / "etc/openssl.cnf")}

    def run(script, *args):
        work = folder / script
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        done = subprocess.run([tools / "sh", GUEST / script, *args], cwd=work, env=environment,
                              capture_output=True, text=True)
        return done.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A folder of private keys, made by the host."""
    root, _ = workload_image()
    folder = tmp_path_factory.mktemp("keys")
    for name, options in KEYS.items():
        subprocess.run([root / LOADER, "--library-path", root / LIBRARIES, root / "bin/openssl",
                        "genpkey", *options, "-out", folder / name],
                       check=True, capture_output=True)
    return folder


def run_guest(start, tmp_path, words, vcpus, extra=None):
    """The lines between the marks of workload/init; extra is a folder to have at /extra."""
    _, initrd = workload_image()
    if extra:
        initrd = str(add_folder(tmp_path, initrd, extra))
    m = start("--kernel", image(KERNEL), "--initrd", initrd, "--append",
              "console=ttyS0 quiet rdinit=/workload/init panic=-1 workload=" + ",".join(words),
              "--vcpus", str(vcpus), "--memory", "1G", "--timeout", str(SECONDS))
    status = m.wait(SECONDS + 10)
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


@pytest.mark.every_engine
@pytest.mark.parametrize("vcpus", VCPUS)
def test_shell_tools(start, tmp_path, native, vcpus):
    rounds = "5" if LONG else "1"
    assert run_guest(start, tmp_path, ["shell", rounds], vcpus) == native("shell", rounds)


@pytest.mark.parametrize("vcpus", VCPUS)
def test_crypto(start, tmp_path, native, keys, vcpus):
    masks = "all" if LONG else "default"
    expected = native("crypto", str(keys), masks)
    assert not [line for line in expected if "WRONG" in line]
    assert run_guest(start, tmp_path, ["crypto", "/extra", masks], vcpus, keys) == expected


@pytest.mark.parametrize("vcpus", VCPUS)
def test_stress(start, tmp_path, vcpus):
    """stress-ng checks its own results; every job has to have run and to have passed."""
    jobs = "jobs-long" if LONG else "jobs-short"
    lines = run_guest(start, tmp_path, ["stress", jobs], vcpus)
    wanted = [line for line in (GUEST / jobs).read_text().splitlines()
              if line and not line.startswith("#")]
    text = "\n".join(lines)
    print(text)
    assert len(re.findall(r"^(?:ok|skip) --", text, re.M)) == len(wanted), text
    assert "FAIL" not in text, text
