"""The power button, by signal and by key."""

import signal

import pytest

from device_run import SECONDS, finish_devices, start_devices

# A key event is 24 bytes: time, type 1, code 116 (power), pressed or not.
SCRIPT = """
exec 3</dev/input/event0
echo ready
head -c 24 <&3 | od -A n -t u2 -j 16 -N 6
{}
"""
MODULES = ["button", "evdev"]


@pytest.mark.every_engine
def test_sigterm_presses_the_button(start, tmp_path):
    m = start_devices(start, tmp_path, MODULES, SCRIPT.format(""))
    before = m.expect("ready\n", SECONDS)
    m.kill(signal.SIGTERM)
    m.output = before.encode() + m.output
    assert "1 116 1" in " ".join(finish_devices(m).split())


def test_second_sigterm_ends_it(start, tmp_path):
    m = start_devices(start, tmp_path, MODULES, SCRIPT.format("echo asked; sleep 1000"))
    m.expect("ready\n", SECONDS)
    m.kill(signal.SIGTERM)
    m.expect("asked", 60)
    m.kill(signal.SIGTERM)
    m.wait()
    assert m.process.returncode == -signal.SIGTERM


# Two stages of about a hundred milliseconds, which nobody attends to; see src/device/i6300esb.c.
WATCHDOG_SCRIPT = """
device=/sys/bus/pci/devices/0000:00:01.0
cat $device/vendor $device/device
echo 1 > $device/enable
bar=$(cut -d ' ' -f 1 $device/resource | head -n 1)
write() {
	devmem $((bar + 0xc)) 16 0x80
	devmem $((bar + 0xc)) 16 0x86
	devmem $((bar + $1)) $2 $3
}
write 0 32 100
write 4 32 100
echo started
printf '\\002' | dd of=$device/config bs=1 seek=$((0x68)) count=1 conv=notrunc 2>/dev/null
sleep 1000
"""


@pytest.mark.parametrize("action, status", [("reset", 3), ("poweroff", 0)])
def test_watchdog(start, tmp_path, action, status):
    m = start_devices(start, tmp_path, [], WATCHDOG_SCRIPT, "--watchdog", action,
                      "--exit-on-reboot")
    assert m.wait(SECONDS) == status, m.output
    assert b"0x8086\n0x25ab\nstarted" in m.output.replace(b"\r", b"")
    assert "watchdog" in m.errors()


def test_watchdog_pauses(start, tmp_path):
    m = start_devices(start, tmp_path, [], WATCHDOG_SCRIPT.replace("sleep 1000", "sleep 1; echo on"),
                      "--watchdog", "pause")
    m.expect("started", SECONDS)
    assert b"watchdog" in m.process.stderr.readline()
    assert b"paused" in m.process.stderr.readline()
    m.kill(signal.SIGCONT)
    assert m.wait(SECONDS) == 0
    assert b"on" in m.output
