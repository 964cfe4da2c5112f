"""One `trapeze run` under test: its console, its end, what it used."""

import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import time


class Machine:
    """The process, with its console on pipes or, with terminal=True, on a pty of its own."""

    def __init__(self, command, terminal=False, stdin=subprocess.PIPE):
        self.output = b""
        self.master = self.slave = None
        if terminal:
            self.master, self.slave = pty.openpty()
            self.mode_before = self.terminal_mode()
            self.process = subprocess.Popen(
                command, stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
            self.reader = self.writer = self.master
        else:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.reader = self.process.stdout.fileno()
            self.writer = self.process.stdin.fileno() if self.process.stdin else None

    def expect(self, text, timeout=30):
        """Reads until the console has printed text; returns everything up to it."""
        text = text.encode()
        end = time.monotonic() + timeout
        while text not in self.output:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} within {timeout} s: {self.output[-2000:]!r}"
            if not select.select([self.reader], [], [], left)[0]:
                continue
            assert self.read(), f"ended without {text!r}: {self.output!r} {self.errors()!r}"
        before, _, self.output = self.output.partition(text)
        return (before + text).decode(errors="replace")

    def send(self, text):
        os.write(self.writer, text.encode())

    def wait(self, timeout=30):
        """Reads the console to its end and returns the exit status."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            # A terminal has no end of file while we hold its slave: look at the process, too.
            if select.select([self.reader], [], [], 0.05)[0]:
                if not self.read():
                    return self.process.wait(end - time.monotonic())
            elif self.process.poll() is not None:
                return self.process.returncode
        raise AssertionError(f"still running after {timeout} s: {self.output[-2000:]!r}")

    def read(self):
        try:
            data = os.read(self.reader, 65536)
        except OSError:  # EIO: the last user of the terminal has gone
            data = b""
        self.output += data
        return data

    def errors(self):
        """Everything on stderr; only when the process is ending."""
        return self.process.stderr.read().decode(errors="replace")

    def terminal_mode(self):
        return termios.tcgetattr(self.slave)

    def kill(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)

    def proc_stat(self):
        """The fields of /proc/PID/stat after the name; the first is the state."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            return f.read().rpartition(")")[2].split()

    def cpu_seconds(self):
        """CPU time of the process so far."""
        fields = self.proc_stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        for fd in (self.master, self.slave):
            if fd is not None:
                os.close(fd)


def connect(path, timeout=30):
    """A client of a socket that is about to be made."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(timeout)
    end = time.monotonic() + timeout
    while True:
        try:
            client.connect(path)
            return client
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < end, f"nobody listens on {path}"
            time.sleep(0.02)
