"""Debian's kernels, from power-on to a shell and to power-off.

By default a slice of the matrix that covers every kernel, every vCPU count and every memory size;
all of it with TRAPEZE_LONG=1.
"""

import json
import pathlib
import re
import time

import pytest

from conftest import LONG, image

KERNELS = {
    "6.1-cloud": "linux-image-cloud-amd64",
    "6.1": "linux-image-amd64",
    "6.1-rt": "linux-image-rt-amd64",
    "6.12-cloud": "linux-image-6.12-cloud-amd64",
}
VCPUS = [1, 2, 4]
MEMORY = ["128M", "512M", "6G"]

SLICE = [("6.1-cloud", 1, "512M"),
         pytest.param("6.1-cloud", 4, "6G", marks=pytest.mark.every_engine),
         ("6.1", 2, "512M"), ("6.1-rt", 2, "512M"), ("6.12-cloud", 1, "128M")]
ALL = [(k, v, m) for k in KERNELS for v in VCPUS for m in MEMORY]

BOOT_SECONDS = 240  # on a busy machine
EXPECTED = pathlib.Path(__file__).with_name("expected-warnings.txt")


def mebibytes(text):
    return int(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def unexpected_warnings(output):
    """Lines of the guest's log at level warning or worse that a QEMU q35 machine does not have."""
    known = [re.compile(line) for line in EXPECTED.read_text().splitlines()
             if line and not line.startswith("#")]
    logged = re.findall(r"^      \[ *[0-9.]+\] (.*?)\r?$", output, re.M)
    return [line for line in logged if not any(k.search(line) for k in known)]


@pytest.mark.parametrize("kernel, vcpus, memory", ALL if LONG else SLICE)
def test_boot(start, tmp_path, kernel, vcpus, memory):
    stats = tmp_path / "stats"
    m = start("--kernel", image(KERNELS[kernel]), "--initrd", image("initramfs"),
              "--append", "console=ttyS0 quiet trapeze.batch", "--vcpus", str(vcpus),
              "--memory", memory, "--timeout", str(BOOT_SECONDS), "--stats", str(stats))
    status = m.wait(BOOT_SECONDS + 10)
    output = m.output.decode(errors="replace")
    assert status == 0, output[-3000:] + m.errors()
    assert re.search(r"self-check: \d+ passed, 0 failed", output), output[-3000:]
    assert f"cpu: {vcpus} x" in output
    seen = int(re.search(r"memory: (\d+) MiB", output)[1])
    assert 0.6 * mebibytes(memory) < seen <= mebibytes(memory)
    assert not unexpected_warnings(output)
    used = json.loads(stats.read_text())
    assert used["first_user_seconds"] > 0
    # bt: code and tables for each vCPU, more for larger kernels; interp: as much for any number.
    limit = (48 if kernel == "6.1-cloud" else 60) + 40 * (vcpus - 1)
    if used["engine"] == "interp":
        limit = 64
    assert used["host_resident_bytes"] < limit << 20


@pytest.mark.parametrize("kernel", KERNELS if LONG else ["6.1-cloud"])
def test_guest_decompresses_itself(start, kernel):
    m = start("--kernel", image(KERNELS[kernel]), "--initrd", image("initramfs"),
              "--append", "console=ttyS0 quiet trapeze.batch", "--decompress", "guest",
              "--timeout", "600")
    assert m.wait(610) == 0, m.output[-3000:]


def start_shell(start, *args):
    m = start("--kernel", image(KERNELS["6.1-cloud"]), "--initrd", image("initramfs"),
              "--append", "console=ttyS0 quiet", *args, terminal=True)
    m.expect("Type exit to power off")
    m.expect("# ", 60)
    return m


def test_shell(start, tmp_path):
    m = start_shell(start)
    raw = m.terminal_mode()

    m.send("echo $((6 * 7))\r")
    m.expect("\n42")

    # Ctrl-C ends the command and not the shell, nor us.
    m.send("sleep 1000\r")
    time.sleep(1)
    m.send("\x03")
    m.expect("# ")
    m.send("echo status $?\r")
    m.expect("status 130")

    # Line editing: cursor left, and a key that erases.
    m.send("echo ac\x1b[Dbx\x7f\r")
    m.expect("\nabc")

    # A window of 50 lines and 132 columns, as the terminal would answer it.
    m.send("resize; stty size\r")
    m.expect("\x1b[6n")
    m.send("\x1b[50;132R")
    m.expect("50 132")

    # Nothing to do costs next to nothing.
    time.sleep(2)
    before = m.cpu_seconds()
    time.sleep(10)
    assert m.cpu_seconds() - before < 10 * 0.03
    assert m.terminal_mode() == raw != m.mode_before

    m.send("exit\r")
    assert m.wait(60) == 0
    assert m.terminal_mode() == m.mode_before


def test_kernel_panic_is_a_reboot(start):
    """No initial RAM disk, so nothing to run: the kernel panics, and reboots because told to."""
    m = start("--kernel", image(KERNELS["6.1-cloud"]), "--append",
              "console=ttyS0 panic=-1", "--exit-on-reboot", "--timeout", str(BOOT_SECONDS))
    assert m.wait(BOOT_SECONDS + 10) == 3, m.output[-3000:]
    assert b"Kernel panic" in m.output


def test_small_code_cache(start, tmp_path):
    """The cache is emptied in part again and again, and nobody runs what is gone."""
    stats = tmp_path / "stats"
    m = start("--kernel", image(KERNELS["6.1-cloud"]), "--initrd", image("initramfs"),
              "--append", "console=ttyS0 quiet trapeze.batch", "--vcpus", "2", "--code-cache", "1M",
              "--timeout", str(BOOT_SECONDS), "--stats", str(stats))
    status = m.wait(BOOT_SECONDS + 10)
    output = m.output.decode(errors="replace")
    assert status == 0, output[-3000:] + m.errors()
    assert re.search(r"self-check: \d+ passed, 0 failed", output), output[-3000:]
    used = json.loads(stats.read_text())
    if used["engine"] == "bt":
        assert used["engine_counters"]["cache_evictions"] > 0
