"""The serial port's host end: terminal, keys, files, sockets, pseudoterminals, signals."""

import os
import signal
import subprocess
import termios
import time
import tty

import pytest

from machine import connect

NUMBERS = "".join(f"{n:06d}\r\n" for n in range(10000))


def test_terminal_is_raw_and_restored(start, echo):
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    assert not m.terminal_mode()[tty.LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG)
    m.send("Q")
    assert m.wait() == 0
    assert m.terminal_mode() == m.mode_before


@pytest.mark.parametrize("keys, status", [("\x01x", 0), ("R", 3), ("C", 2), ("D", 2), ("X", 33)])
def test_terminal_is_restored_whatever_happens(start, echo, keys, status):
    m = start("--kernel", echo, "--exit-on-reboot", terminal=True)
    m.expect("ready")
    m.send(keys)
    assert m.wait() == status
    assert m.terminal_mode() == m.mode_before


@pytest.mark.every_engine  # which take some of these signals for themselves
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT,
                                 signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_terminal_is_restored_after_signal(start, echo, sig):
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    m.kill(sig)
    assert m.wait() == -sig
    assert m.terminal_mode() == m.mode_before


def test_terminal_is_handed_back_while_stopped(start, echo):
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    raw = m.terminal_mode()
    m.kill(signal.SIGTSTP)
    wait_until(lambda: m.proc_stat()[0] == "T")
    assert m.terminal_mode() == m.mode_before
    m.kill(signal.SIGCONT)
    wait_until(lambda: m.terminal_mode() == raw)
    m.send("abc")
    m.expect("abc")


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_keys_reach_the_guest(start, echo):
    """Ctrl-C, Ctrl-Z, Ctrl-S, Ctrl-D and Ctrl-backslash are bytes like others."""
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    for key in ["\x03", "\x1a", "\x13", "\x11", "\x04", "\x1c", "\x00", "\x7f", "\r"]:
        m.send(f"<{key}>")
        m.expect(f"<{key}>")


def test_escape_keys(start, engine, echo):
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    m.send("\x01?")
    m.expect("Ctrl-A x")
    m.send("\x01s")
    m.expect(f"engine {engine}, 1 vCPU")
    m.send("<\x01\x01>")
    m.expect("<\x01>")
    m.send("\x01x")
    assert m.wait() == 0


def test_pipe_has_no_escape_key(start, echo):
    m = start("--kernel", echo)
    m.expect("ready")
    m.send("\x01x.")
    m.expect("\x01x.")
    m.send("Q")
    assert m.wait() == 0


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null", "<DIR/input", "<DIR"])
def test_any_stdin(trapeze, echo, tmp_path, stdin):
    (tmp_path / "input").write_text("abc")
    done = subprocess.run(
        ["sh", "-c", '"$@" ' + stdin.replace("DIR", str(tmp_path)), "sh", trapeze, "run",
         "--kernel", echo, "--timeout", "1"], capture_output=True, timeout=30)
    assert done.returncode == 4
    assert done.stdout == b"ready\r\n" + (b"abc" if "input" in stdin else b"")
    assert done.stderr == b"trapeze: stopped after 1 s (--timeout)\n"


def test_long_input_is_not_lost(start, echo):
    m = start("--kernel", echo)
    m.expect("ready\r\n")
    text = "".join(chr(ord("a") + i % 26) for i in range(5000))
    m.send(text + "Q")
    assert m.wait(60) == 0
    assert m.output.decode() == text


def test_slow_reader_loses_nothing(start, echo):
    """The guest waits while nobody reads: pipe and our own buffer are smaller than its output."""
    m = start("--kernel", echo)
    m.expect("ready\r\n")
    m.send("NNN")
    time.sleep(1)
    for _ in range(3):
        m.expect(NUMBERS + "done\r\n", 60)


def test_flood_can_be_ended(start, echo):
    m = start("--kernel", echo, terminal=True)
    m.expect("ready")
    m.send("F")
    m.expect("ready\r\nready\r\n")
    time.sleep(1)  # nobody reads
    m.send("\x01x")
    assert m.wait() == 0
    assert m.terminal_mode() == m.mode_before


def test_file(start, echo, tmp_path):
    log = tmp_path / "log"
    log.write_text("old")
    m = start("--kernel", echo, "--serial", f"file:{log}", "--timeout", "2")
    assert m.wait() == 4
    assert log.read_bytes() == b"ready\r\n"


def test_none(start, echo):
    m = start("--kernel", echo, "--serial", "none", "--timeout", "1")
    assert m.wait() == 4
    assert m.output == b""


def read_exactly(read, size):
    data = b""
    while len(data) < size:
        data += read(size - len(data))
    return data.decode()


def test_socket_serves_one_client_after_another(start, echo, tmp_path):
    path = f"{tmp_path}/serial"
    m = start("--kernel", echo, "--serial", f"unix:{path}")
    for round in range(3):
        with connect(path) as client:
            client.sendall(b"!")
            while client.recv(1) != b"!":
                pass  # what was printed while the last client left
            client.sendall(b"N")
            time.sleep(0.2)
            assert read_exactly(client.recv, len(NUMBERS)) == NUMBERS
    with connect(path) as client:
        client.sendall(b"Q")
        assert m.process.wait(30) == 0
    assert not os.path.exists(path)


def test_second_client_waits_for_the_first(start, echo, tmp_path):
    path = f"{tmp_path}/serial"
    start("--kernel", echo, "--serial", f"unix:{path}")
    first, second = connect(path), connect(path)
    second.sendall(b"2")
    first.sendall(b"1")
    while first.recv(1) != b"1":
        pass
    first.close()
    while second.recv(1) != b"2":
        pass
    second.close()


def test_pty(start, echo):
    m = start("--kernel", echo, "--serial", "pty")
    line = m.process.stderr.readline().decode()
    assert line.startswith("trapeze: serial port at /dev/pts/"), line
    for _ in range(2):
        fd = os.open(line.split()[-1], os.O_RDWR | os.O_NOCTTY)
        time.sleep(0.6)  # until it is noticed
        os.write(fd, b"!")
        while os.read(fd, 1) != b"!":
            pass
        os.write(fd, b"N")
        assert read_exactly(lambda n: os.read(fd, n), len(NUMBERS) + 6) == NUMBERS + "done\r\n"
        os.close(fd)
        time.sleep(0.6)
    m.kill()
    assert m.process.wait(30) == -signal.SIGTERM


def test_socket_is_removed_after_signal(start, echo, tmp_path):
    path = f"{tmp_path}/serial"
    m = start("--kernel", echo, "--serial", f"unix:{path}")
    connect(path).close()
    m.kill(signal.SIGINT)
    assert m.process.wait(30) == -signal.SIGINT
    assert not os.path.exists(path)
