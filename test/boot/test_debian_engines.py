"""A whole Debian from its disk on the engines that test_debian.py does not try, whatever TRAPEZE_ENGINES says."""

import re
import subprocess

import pytest

import machine
from conftest import LONG
from debian_guest import boot

PATIENCE = {"interp": 20, "kvm": 1}  # times what bt is given
# On a busy host the interpreter takes longer to the serial port's device than the 90 s that systemd allows.
MORE_TIME = ("mkdir -p /etc/systemd/system.conf.d && printf '[Manager]\\nDefaultDeviceTimeoutSec=1h\\n"
             "DefaultTimeoutStartSec=1h\\n' > /etc/systemd/system.conf.d/slow.conf && sync")
NEEDED = "systemd-networkd systemd-resolved ssh serial-getty@ttyS0 dbus systemd-journald"


def why_not(trapeze, engine):
    """What `--engine auto` measures of kvm; a reason to skip, or None."""
    if engine == "interp":
        return None if LONG else "TRAPEZE_LONG=1 boots by the interpreter, which takes minutes"
    lines = subprocess.run([trapeze, "info"], check=True, capture_output=True, text=True).stdout
    choice = re.search(r"^auto takes +(.*)", lines, re.M)[1]
    return None if choice.startswith("kvm") else f"auto takes {choice}"


@pytest.mark.parametrize("name", PATIENCE)
def test_debian_on(trapeze, debian, disk, name):
    reason = why_not(trapeze, name)
    if reason:
        pytest.skip(reason)
    machines = []

    def start(*args, on=name):
        machines.append(machine.Machine([trapeze, "run", "--engine", on, *args]))
        return machines[-1]

    try:
        if name == "interp":
            guest = boot(lambda *args: start(*args, on="bt"), debian, disk)
            guest.log_in()
            guest.run(MORE_TIME)
            guest.power_off()
        guest = boot(start, debian, disk, patience=PATIENCE[name])
        guest.log_in()
        guest.run("systemctl is-active multi-user.target || systemctl start multi-user.target")
        assert set(guest.run(f"systemctl is-active {NEEDED}").split()) == {"active"}
        guest.run("cp /usr/bin/perl /root/p && sync && cmp /usr/bin/perl /root/p")
        assert guest.ssh("cat", b"by ssh") == b"by ssh"
        guest.power_off()
    finally:
        for m in machines:
            m.close()
