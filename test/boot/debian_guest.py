"""A machine with a whole Debian on its disk, that tests log in to."""

import signal
import socket
import subprocess

from conftest import LONG

SECONDS = 300  # on a busy machine
PROMPT = "root@full:~# "


def free_port(kind=socket.SOCK_STREAM, family=socket.AF_INET):
    """A port of the loopback that nobody uses now."""
    with socket.socket(family, kind) as s:
        s.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        return s.getsockname()[1]


class Guest:
    """The machine, logged in on its serial console. `patience` is for engines that are slow."""

    def __init__(self, machine, key=None, port=None, patience=1):
        self.machine = machine
        self.seconds = SECONDS * patience
        self.key = key
        self.address, self.port = "127.0.0.1", port

    def log_in(self):
        self.machine.expect("full login: ", self.seconds)
        self.machine.send("root\n")
        self.machine.expect(PROMPT, self.seconds)
        # A shell without line editing, which would echo.
        self.machine.send("stty -echo; PS1= TERM=dumb exec sh\n")
        self.machine.send("echo $((6 * 7))\n")
        self.machine.expect("42\r\n", self.seconds)

    def run(self, command, status=0):
        """What it prints; its status must be as said."""
        self.machine.send(f"{command}; echo \"<$?>\"\n")
        out = self.machine.expect(">\r\n", self.seconds).replace("\r", "")
        text, _, got = out.rpartition("<")
        assert got == f"{status}>\n", (command, out)
        return text

    def ssh(self, command, data=b""):
        done = subprocess.run(["ssh", "-q", "-i", self.key, "-p", str(self.port), "-o", "BatchMode=yes",
                               "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                               f"root@{self.address}", command], input=data, capture_output=True,
                              timeout=4 * self.seconds if LONG else self.seconds)
        assert done.returncode == 0, (done.stdout[-5000:], done.stderr)
        return done.stdout

    def power_off(self):
        """By the button."""
        self.machine.kill(signal.SIGTERM)
        assert self.machine.wait(self.seconds) == 0, self.machine.output
        assert b"Power down" in self.machine.output or b"Power-Off" in self.machine.output


def boot(start, debian, disk, *args, net="", patience=1):
    """net: more keys for its card."""
    port = free_port()
    m = start("--image", str(disk), "--memory", "1G", "--net",
              f"user,hostfwd=tcp:127.0.0.1:{port}-:22{net}", *args)
    return Guest(m, debian.parent / "key", port, patience)
