"""The VM generation ID as a guest finds it: by ACPI, and with the driver of a kernel that has one."""

import base64
import pathlib
import re
import subprocess

import pytest

from conftest import image
from device_run import device_image, run_devices

SCRIPT = """
base64 /sys/firmware/acpi/tables/DSDT | sed 's/^/dsdt /'
ls /sys/bus/*/drivers/vmgenid 2>/dev/null | sed 's/^/driver /'
cat /sys/firmware/acpi/interrupts/gpe05 | sed 's/^/event /'
"""


def integer(aml, at):
    """A number of AML (ACPI 20.2.3): its value, and where it ends."""
    size = {0x0a: 1, 0x0b: 2, 0x0c: 4, 0x0e: 8}.get(aml[at], 0)
    if not size:
        assert aml[at] in (0, 1)
        return aml[at], at + 1
    return int.from_bytes(aml[at + 1:at + 1 + size], "little"), at + 1 + size


def place_of(out):
    """What ADDR of the device says."""
    aml = base64.b64decode("".join(re.findall("^dsdt (.*)", out, re.M)))
    assert aml.count(b"VM_Gen_Counter") == 2 and aml.count(b"VMGENCTR") == 1  # _CID and _DDN
    at = aml.index(b"ADDR", aml.index(b"VM_Gen_Counter")) + 4
    assert aml[at] == 0x12
    at += 2 + (aml[at + 1] >> 6)  # behind its length (20.2.4)
    assert aml[at] == 2  # a package of two
    low, at = integer(aml, at + 1)
    high, _ = integer(aml, at)
    return high << 32 | low


def read_id(place):
    """Shell that prints the 16 bytes."""
    return "".join(f"devmem {place + 4 * i:#x} 32; " for i in range(4)) + "\n"


@pytest.fixture
def place(start, tmp_path):
    (tmp_path / "look").mkdir()
    return place_of(run_devices(start, tmp_path / "look", [], SCRIPT))


def test_every_machine_has_its_own(start, tmp_path, place):
    """And keeps it over a reboot, which clears the memory that it is in."""
    assert place % 8 == 0  # Microsoft's paper, "Virtual Machine Generation ID"
    ids = []
    for name in "first", "second":
        folder = tmp_path / name
        folder.mkdir()
        (folder / "disk").write_bytes(bytes(4096))
        out = run_devices(start, folder, ["virtio_pci", "virtio_blk"], read_id(place) + """
if [ "$(head -c 4 /dev/vda)" != done ]; then
	printf done | dd of=/dev/vda conv=fsync 2>/dev/null
	reboot -f
fi
""", "--disk", f"{folder}/disk,format=raw")
        numbers = re.findall("^0x[0-9A-F]{8}", out, re.M)
        assert len(numbers) == 8 and numbers[:4] == numbers[4:], out
        ids.append(numbers[:4])
    assert ids[0] != ids[1] and set(ids[0]) != {"0x00000000"}


def test_driver(start, tmp_path):
    """Linux 6.12 has its driver built in: it has taken the device, and its event is enabled."""
    out = run_devices(start, tmp_path, [], SCRIPT, "--kernel", image("linux-image-6.12-cloud-amd64"))
    assert re.search(r"^driver TRPZ0001:00", out, re.M), out
    assert re.search(r"^event +0 .*enabled", out, re.M), out


RESEED = """
before=$(sed 's/^ *//; s/ .*//' /sys/firmware/acpi/interrupts/gpe05)
dmesg -n 1
dmesg -c > /dev/null
printf 'new generation, please\\r\\n'
until [ "$(sed 's/^ *//; s/ .*//' /sys/firmware/acpi/interrupts/gpe05)" != "$before" ]; do usleep 10000; done
until dmesg | grep 'crng reseeded due to virtual machine fork'; do usleep 10000; done
"""


def test_linux_reseeds(trapeze, engine, tmp_path):
    """A new ID and its event while Linux 6.12 runs: its random numbers begin anew."""
    _, initrd = device_image(tmp_path, [], RESEED)
    program = pathlib.Path(trapeze).resolve().parents[2] / "test/boot/generation"
    done = subprocess.run([program, engine, image("linux-image-6.12-cloud-amd64"), initrd,
                           "console=ttyS0 quiet rdinit=/extra/init panic=-1"], text=True,
                          capture_output=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    assert "random: crng reseeded due to virtual machine fork" in done.stdout, done.stdout
