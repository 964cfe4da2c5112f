"""Virtio devices, driven by Debian's cloud kernel."""

import re

import pytest

from device_run import run_devices

RNG_SCRIPT = """
cat /sys/class/misc/hw_random/rng_current
head -c 65536 /dev/hwrng | gzip | wc -c
for i in 1 2 3 4; do head -c 64 /dev/hwrng | md5sum; done | sort -u | wc -l
grep virtio /proc/interrupts
cat /sys/bus/virtio/devices/virtio0/features
"""


@pytest.mark.every_engine
def test_rng(start, tmp_path):
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio-rng"], RNG_SCRIPT, "--rng")
    name, packed, different, *rest = out.split("\n")
    assert name.startswith("virtio_rng"), out
    assert int(packed) > 65000 and int(different) == 4, out
    assert re.search(r"[1-9]\d*\s.*MSI.*virtio0-input", "\n".join(rest)), out
    # Both layouts of rings, indirect descriptors, event index: Linux takes what is offered.
    features = rest[-2]
    assert [features[n] for n in (28, 29, 32, 34)] == ["1"] * 4, out


def test_rng_without_msi(start, tmp_path):
    """Interrupts come by INTA#, as the _PRT has it."""
    out = run_devices(start, tmp_path, ["virtio_pci", "virtio-rng"], RNG_SCRIPT, "--rng",
                      append="pci=nomsi")
    assert int(out.split("\n")[1]) > 65000, out
    assert re.search(r"[1-9]\d*\s+IO-APIC +1[67]-fasteoi +virtio0", out), out
