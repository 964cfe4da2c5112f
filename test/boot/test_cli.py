"""The command line: what it refuses, and in which words."""

import os
import socket
import subprocess

import pytest

from machine import connect


def call(trapeze, *args, **how):
    how.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([trapeze, *args], capture_output="stdout" not in how, text=True,
                          timeout=60, **how)


def refused(done, *words):
    """Status 1, one line on stderr with these words, nothing on stdout."""
    assert done.returncode == 1, done
    assert done.stderr.startswith("trapeze: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not done.stdout, done.stdout


# Arguments after `run`, and words that the message must have: the thing, the value, the limit.
# KERNEL stands for a file that boots, DIR for an empty folder.
BAD_OPTIONS = [
    ([], ["--kernel"]),
    (["--kernel"], ["--kernel", "FILE"]),
    (["--kernel", ""], ["--kernel", "empty"]),
    (["--frobnicate"], ["--frobnicate"]),
    (["--memor", "512M"], ["--memor"]),
    (["-x"], ["-x"]),
    (["stray"], ["stray"]),
    (["--kernel", "KERNEL", "--testdev=yes"], ["--testdev"]),
    (["--kernel", "KERNEL", "--memory", "0"], ["--memory 0", "32 MiB"]),
    (["--kernel", "KERNEL", "--memory", "31M"], ["--memory 31M", "32 MiB"]),
    (["--kernel", "KERNEL", "--memory", "1K"], ["--memory 1K", "32 MiB"]),
    (["--kernel", "KERNEL", "--memory", "1000G"], ["--memory 1000G", "this host has"]),
    (["--kernel", "KERNEL", "--memory", "2T"], ["--memory 2T", "1 TiB"]),
    (["--kernel", "KERNEL", "--memory", "99999999999999999999"], ["--memory 9999"]),
    (["--kernel", "KERNEL", "--memory", "18014398509481985K"], ["--memory 1801"]),
    (["--kernel", "KERNEL", "--memory", "-512M"], ["--memory -512M"]),
    (["--kernel", "KERNEL", "--memory", "512Q"], ["--memory 512Q"]),
    (["--kernel", "KERNEL", "--memory", "512MB"], ["--memory 512MB"]),
    (["--kernel", "KERNEL", "--memory", "lots"], ["--memory lots"]),
    (["--kernel", "KERNEL", "--memory", ""], ["--memory"]),
    (["--kernel", "KERNEL", "--memory", "65537K"], ["--memory 65537K", "4K"]),
    (["--kernel", "KERNEL", "--vcpus", "0"], ["--vcpus 0", "1 to 16"]),
    (["--kernel", "KERNEL", "--vcpus", "17"], ["--vcpus 17", "1 to 16"]),
    (["--kernel", "KERNEL", "--vcpus", "abc"], ["--vcpus abc", "1 to 16"]),
    (["--kernel", "KERNEL", "--vcpus", "-1"], ["--vcpus -1", "1 to 16"]),
    (["--kernel", "KERNEL", "--vcpus", "2.5"], ["--vcpus 2.5", "1 to 16"]),
    (["--kernel", "KERNEL", "--vcpus", "18446744073709551617"], ["--vcpus 1844", "1 to 16"]),
    (["--kernel", "KERNEL", "--engine", "warp"], ["--engine warp", "trapeze engines"]),
    (["--kernel", "KERNEL", "--cpu", "486"], ['"486"', "x86-64-v3"]),
    (["--kernel", "KERNEL", "--engine", "bt", "--cpu", "x86-64-v4"], ["x86-64-v4", "avx512f"]),
    (["--kernel", "KERNEL", "--irqchip", "warp"], ["--irqchip warp", "kernel, split, own"]),
    (["--kernel", "KERNEL", "--engine", "bt", "--check", "warp"], ["--check warp", "interp"]),
    (["--kernel", "KERNEL", "--engine", "interp", "--check", "interp"], ["--engine interp", "bt"]),
    (["--kernel", "KERNEL", "--engine", "bt", "--check", "interp", "--vcpus", "2"],
     ["--check interp", "--vcpus 2"]),
    (["--kernel", "KERNEL", "--disk", ""], ["--disk", "empty"]),
    (["--kernel", "KERNEL", "--disk", "DIR/none"], ["DIR/none", "No such file"]),
    (["--kernel", "KERNEL", "--disk", "DIR"], ["DIR"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,colour=red"], ["colour", "format"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,format=vmdk"], ["KERNEL", "raw, qcow2"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,format"], ["format", "value"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,readonly=1"], ["readonly", "no value"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,iops=0"], ["iops", "1000000000"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,bps=fast"], ["bps", "10M"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,if=scsi"], ["virtio, nvme"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,werror=ignore"], ["report, pause"]),
    (["--kernel", "KERNEL", "--disk", "KERNEL,serial=" + "x" * 21], ["serial", "20"]),
    (["--kernel", "KERNEL", *["--disk", "KERNEL"] * 17], ["more than 16 disks"]),
    (["--kernel", "KERNEL", "--balloon", "1G"], ["--balloon", "512 MiB"]),
    (["--kernel", "KERNEL", "--balloon", "0"], ["--balloon", "512 MiB"]),
    (["--kernel", "KERNEL", "--balloon", "much"], ["--balloon much", "512M"]),
    (["--kernel", "KERNEL", "--watchdog", "bark"], ["--watchdog bark", "poweroff"]),
    (["--kernel", "KERNEL", "--console", "stdio"], ["stdio", "--serial none"]),
    (["--kernel", "KERNEL", "--console", "telnet:1"], ["--console telnet:1", "stdio"]),
    (["--kernel", "KERNEL", "--port", "=none"], ["--port =none", "NAME=WHERE"]),
    (["--kernel", "KERNEL", "--port", "agent=pipe:x"], ["--port pipe:x", "stdio"]),
    (["--kernel", "KERNEL", "--serial", "telnet:1"], ["--serial telnet:1", "stdio"]),
    (["--kernel", "KERNEL", "--serial", ""], ["--serial", "stdio"]),
    (["--kernel", "KERNEL", "--serial", "stdio:1"], ["--serial stdio:1"]),
    (["--kernel", "KERNEL", "--serial", "file"], ["--serial file", "file:PATH"]),
    (["--kernel", "KERNEL", "--serial", "unix:"], ["--serial unix:", "unix:PATH"]),
    (["--kernel", "KERNEL", "--serial", "file:DIR"], ["DIR", "directory"]),
    (["--kernel", "KERNEL", "--serial", "file:DIR/no/log"], ["DIR/no/log", "No such file"]),
    (["--kernel", "KERNEL", "--serial", "unix:DIR/no/s"], ["DIR/no/s", "No such file"]),
    (["--kernel", "KERNEL", "--serial", "unix:KERNEL"], ["KERNEL", "not a socket"]),
    (["--kernel", "KERNEL", "--serial", "unix:/tmp/" + "x" * 200], ["xxx", "107"]),
    (["--kernel", "KERNEL", "--decompress", "nobody"], ["--decompress nobody", "host, guest"]),
    (["--kernel", "KERNEL", "--timeout", "0"], ["--timeout 0"]),
    (["--kernel", "KERNEL", "--timeout", "-1"], ["--timeout -1"]),
    (["--kernel", "KERNEL", "--timeout", "soon"], ["--timeout soon"]),
    (["--kernel", "KERNEL", "--timeout", "nan"], ["--timeout nan"]),
    (["--kernel", "KERNEL", "--timeout", "1e99"], ["--timeout 1e99", "31536000"]),
    (["--kernel", "KERNEL", "--stats", "DIR/no/stats"], ["DIR/no/stats", "No such file"]),
    (["--kernel", "KERNEL", "--stats", "DIR"], ["DIR", "directory"]),
    (["--kernel", "KERNEL"] + ["--module", "KERNEL"] * 17, ["--module", "16"]),
    (["--kernel", "KERNEL", "--module", "DIR/none x"], ["DIR/none"]),
    (["--kernel", "KERNEL", "--initrd", "DIR/none"], ["DIR/none", "No such file"]),
]


@pytest.mark.parametrize("args, words", BAD_OPTIONS, ids=lambda v: " ".join(v)[:60] or "nothing")
def test_bad_options(trapeze, echo, tmp_path, args, words):
    def fill(text):
        return text.replace("KERNEL", echo).replace("DIR", str(tmp_path))

    refused(call(trapeze, "run", *map(fill, args)), *map(fill, words))
    assert not list(tmp_path.iterdir())


def truncated_bzimage(size):
    """The first bytes of something that says it is a Linux kernel."""
    image = bytearray(size)
    image[0x1f1:0x1f2] = b"\x1f"
    image[0x1fe:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = b"\x0f\x02"
    return bytes(image)


BAD_KERNELS = {
    "empty": b"",
    "one byte": b"\x7f",
    "text": b"#!/bin/sh\necho hello\n" * 100,
    "zeros": bytes(1 << 20),
    "ELF magic only": b"\x7fELF",
    "ELF of noise": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 64,
    "bzImage header only": truncated_bzimage(0x250),
    "bzImage without setup": truncated_bzimage(4096),
    "bzImage without payload": truncated_bzimage(1 << 16),
    "multiboot magic without a check": b"\x02\xb0\xad\x1b" + bytes(8192),
}


@pytest.mark.parametrize("content", BAD_KERNELS.values(), ids=BAD_KERNELS.keys())
def test_bad_kernel(trapeze, tmp_path, content):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(content)
    refused(call(trapeze, "run", "--kernel", str(kernel)), str(kernel))


@pytest.mark.parametrize("name", ["missing", "folder", "/dev/null", "/dev/zero"])
def test_kernel_that_is_no_file(trapeze, tmp_path, name):
    (tmp_path / "folder").mkdir()
    path = os.path.join(tmp_path, name)
    refused(call(trapeze, "run", "--kernel", path), path)


def test_initrd_that_does_not_fit(trapeze, echo, tmp_path):
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as f:
        f.truncate(1 << 30)
    refused(call(trapeze, "run", "--kernel", echo, "--initrd", str(initrd)), str(initrd))


def test_unknown_verb(trapeze):
    refused(call(trapeze, "fly"), "fly", "trapeze help")
    refused(call(trapeze), "trapeze help")
    for verb in "engines", "info", "version", "help":
        refused(call(trapeze, verb, "stray"), verb, "stray")


@pytest.mark.parametrize("args", [["--version"], ["help"], ["--help"], ["engines"],
                                  ["run", "--help"], ["run", "-h"]])
def test_words_for_people(trapeze, args):
    done = call(trapeze, *args)
    assert done.returncode == 0 and done.stdout and not done.stderr
    # The same, with nowhere to go.
    with open("/dev/full", "w") as full:
        done = call(trapeze, *args, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and "No space left" in done.stderr
    done = call("sh", "-c", '"$@" >&-', "sh", trapeze, *args)
    assert done.returncode == 1 and "standard output" in done.stderr


def test_help_has_every_option_of_the_manual(trapeze):
    manual = os.path.join(os.path.dirname(__file__), "../../doc/trapeze.1")
    with open(manual) as f:
        of_run = f.read().split(".Sh DISK IMAGES")[0]  # test/block has the others
    in_manual = {line.split()[3] for line in of_run.splitlines() if line.startswith(".It Fl Fl ")}
    in_help = {word for line in call(trapeze, "run", "--help").stdout.splitlines()
               for word in line.split()[:2] if line.startswith("  -") and word.startswith("--")}
    assert {f"--{name}" for name in in_manual} == in_help


def test_closed_stdout(trapeze, echo):
    done = call("sh", "-c", '"$@" >&-', "sh", trapeze, "run", "--kernel", echo)
    refused(done, "--serial stdio", "standard output")


def test_stdout_that_goes_away(start, echo):
    m = start("--kernel", echo)
    m.expect("ready")
    m.send("F")
    m.process.stdout.close()
    assert m.process.wait(30) == 1
    assert "Broken pipe" in m.errors()


def test_full_disk_for_stats(trapeze, echo):
    done = call(trapeze, "run", "--kernel", echo, "--stats", "/dev/full", input="Q", stdin=None)
    assert done.returncode == 1
    assert done.stderr == "trapeze: --stats /dev/full: No space left on device\n"


def test_full_disk_leaves_no_file(trapeze, echo, tmp_path):
    """A file system of one page, which is taken, in a mount namespace of its own."""
    script = (f"mount -t tmpfs -o size=4k,nr_inodes=20 none {tmp_path} || exit 77;"
              f"echo full > {tmp_path}/a;"
              f"echo Q | {trapeze} run --kernel {echo} --stats {tmp_path}/stats;"
              f"echo status $?; ls {tmp_path}")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True,
                          timeout=60)
    if done.returncode in (1, 77):
        pytest.skip("no mount namespaces for this user")
    assert done.stderr == f"trapeze: --stats {tmp_path}/stats: No space left on device\n"
    assert done.stdout.endswith("status 1\na\n"), done.stdout


def test_full_disk_for_serial(start, echo):
    m = start("--kernel", echo, "--serial", "file:/dev/full")
    assert m.process.wait(30) == 1
    assert "No space left" in m.errors()


def test_socket_in_use(start, trapeze, echo, tmp_path):
    path = f"{tmp_path}/serial"
    first = start("--kernel", echo, "--serial", f"unix:{path}")
    client = connect(path)
    refused(call(trapeze, "run", "--kernel", echo, "--serial", f"unix:{path}"), path, "listens")
    client.sendall(b"Q")
    assert first.process.wait(30) == 0
    assert not os.path.exists(path)


def test_stale_socket(start, echo, tmp_path):
    path = f"{tmp_path}/serial"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    m = start("--kernel", echo, "--serial", f"unix:{path}")
    connect(path).sendall(b"Q")
    assert m.process.wait(30) == 0
