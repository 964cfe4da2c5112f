"""The power button, by signal and by key."""

import signal

import pytest

from device_run import finish_devices, start_devices

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
    before = m.expect("ready\n", 240)
    m.kill(signal.SIGTERM)
    m.output = before.encode() + m.output
    assert "1 116 1" in " ".join(finish_devices(m).split())


def test_second_sigterm_ends_it(start, tmp_path):
    m = start_devices(start, tmp_path, MODULES, SCRIPT.format("echo asked; sleep 1000"))
    m.expect("ready\n", 240)
    m.kill(signal.SIGTERM)
    m.expect("asked", 60)
    m.kill(signal.SIGTERM)
    m.wait()
    assert m.process.returncode == -signal.SIGTERM
