"""Memory barriers on a machine with one vCPU: other vCPUs are not there to see the order of its accesses,
but the threads of devices are. A virtio driver whose barrier is none loses a doorbell now and then, and
waits for ever; so the code that bt makes of a barrier has to be one."""

import pathlib
import re
import subprocess

import pytest

BARRIERS = 7


def translate(trapeze, folder, vcpus):
    """The lines of host code that bt makes of barriers.S."""
    guest, trace = folder / "barriers.elf", folder / "trace"
    subprocess.run(
        ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000",
         "-Wl,-N,--build-id=none,-z,noexecstack,--no-warn-rwx-segments", "-o", guest,
         pathlib.Path(__file__).with_name("barriers.S")], check=True)
    subprocess.run([trapeze, "run", "--engine", "bt", "--vcpus", str(vcpus), "--trace", trace,
                    "--kernel", guest], check=True, stdin=subprocess.DEVNULL, timeout=60)
    host = [line for line in trace.read_text().splitlines() if re.match(r" {6}\S", line)]
    assert host, "bt has translated nothing"
    return host


@pytest.mark.parametrize("vcpus", [1, 2])
def test_barriers_stay(trapeze, request, tmp_path, vcpus):
    if "bt" not in request.config.engines:
        pytest.skip("bt is not one of the engines")
    host = translate(trapeze, tmp_path, vcpus)
    barriers = [line for line in host if re.search(r"\b(lock (add|or|sub|xor)|mfence|xchg.*\()", line)]
    assert len(barriers) == BARRIERS, "\n".join(host)
