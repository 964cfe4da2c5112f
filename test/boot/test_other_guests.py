"""Ring-0 guests other than Linux, as Debian ships them: demanding users of a PC."""

import gzip
import re

import pytest

from conftest import image


@pytest.mark.parametrize("binary", ["memtest86+x64.bin", "memtest86+ia32.bin"])
def test_memtest86(start, binary):
    """The memory tester, 64-bit and 32-bit with PAE, finds no error while it is let run."""
    m = start("--kernel", image(f"memtest86+:boot/{binary}"), "--append", "console=ttyS0,115200",
              "--memory", "64M", "--timeout", "20")
    assert m.wait(60) == 4, m.errors()
    screen = m.output.decode(errors="replace")
    assert "Memtest86+" in screen
    assert re.search(r"Errors:\s*(\x1b\[[0-9;]*H)?\s*0", screen), screen[-500:]
    assert not re.search(r"Errors:\s*(\x1b\[[0-9;]*H)?\s*[1-9]", screen), screen[-500:]


def test_xen(start, tmp_path):
    """Xen comes up by Multiboot, up to asking for the domain 0 that it was not given."""
    xen = tmp_path / "xen"
    xen.write_bytes(gzip.decompress(
        open(image("xen-hypervisor-4.17-amd64:boot/xen-4.17-amd64.gz"), "rb").read()))
    m = start("--kernel", str(xen), "--append", "com1=115200,8n1 console=com1 noreboot",
              "--memory", "512M", "--timeout", "120")
    assert m.wait(130) == 2
    assert b"dom0 kernel not specified" in m.output
    assert "every vCPU is halted" in m.errors()
