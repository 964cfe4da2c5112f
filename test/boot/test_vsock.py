"""Streams between programs on the host and in the guest."""

import contextlib
import os
import random
import socket
import threading

import pytest

from device_run import finish_devices, start_devices
from machine import connect
from test_cli import call, refused
from test_net import exchange

MODULES = ["virtio_pci", "vmw_vsock_virtio_transport"]


def echo_server(path):
    """Listens where the guest's connections to a port go; sends back what comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve():
        with listener:
            peer, _ = listener.accept()
        with peer:
            while data := peer.recv(65536):
                peer.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def ask(path, line):
    """A connection after the line that names a port, and the answer to it."""
    s = connect(path)
    s.sendall(line)
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while not answer.endswith(b"\n") and (byte := s.recv(1)):
            answer += byte
    return s, answer


@pytest.mark.every_engine
def test_both_directions(start, tmp_path, peer_program):
    path = f"{tmp_path}/vsock"
    thread = echo_server(f"{path}_52")
    m = start_devices(start, tmp_path, MODULES, """
/extra/peer send 52 3000000
/extra/peer refuse 53
/extra/peer listen 77
""", "--vsock", f"path={path},cid=42", files=[peer_program])
    before = m.expect("listening", 120)
    thread.join()
    assert "got 3000000 of 3000000" in before and "connect: Connection reset" in before, before

    nobody, answer = ask(path, b"CONNECT 78\n")
    assert answer == b""
    nobody.close()
    peer, answer = ask(path, b"CONNECT 77\n")
    assert answer.startswith(b"OK ")
    data = random.Random(1).randbytes(2500000)
    with peer:
        assert exchange(peer, data, ends=True) == data
    m.output = b"== begin\n" + m.output
    assert "echoed 2500000" in finish_devices(m)
    assert not os.path.exists(path)


def test_words_that_are_none(start, tmp_path, echo):
    """A guest without a driver, and programs that say something else: the connection ends."""
    path = f"{tmp_path}/vsock"
    m = start("--kernel", echo, "--vsock", f"path={path},cid=3")
    for line in [b"HELLO\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT -1\n", b"CONNECT 4294967295\n",
                 b"CONNECT 1 2\n", b"A" * 100]:
        s, answer = ask(path, line)
        assert answer == b"", line
        s.close()
    m.send("Q")
    assert m.process.wait(30) == 0
    assert not os.path.exists(path)


@pytest.mark.parametrize("text,words", [
    ("path=DIR/v", ["cid=N"]),
    ("cid=3", ["path=PATH"]),
    ("path=DIR/v,cid=2", ["cid=2", "3 to"]),
    ("path=DIR/v,cid=4294967295", ["cid=4294967295", "3 to"]),
    ("path=DIR/v,cid=x", ["cid=x"]),
    ("path=DIR/v,port=3", ["port=3"]),
    ("path=DIR/no/v,cid=3", ["DIR/no/v", "No such file"]),
    ("path=DIR,cid=3", ["DIR", "not a socket"]),
])
def test_refusals(trapeze, echo, tmp_path, text, words):
    text, *words = [w.replace("DIR", str(tmp_path)) for w in [text, *words]]
    refused(call(trapeze, "run", "--kernel", echo, "--vsock", text), *words)
