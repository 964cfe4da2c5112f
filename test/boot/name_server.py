"""Runs a command where the host's name server is one that knows a single name.

    unshare -mn python3 name_server.py FOLDER COMMAND [ARGUMENT]...

In the network namespace there is nothing but the loopback; FOLDER gets a resolv.conf that names it, which
covers the host's in the mount namespace. The status is the command's, or 77 where this is not allowed.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys

NAME = "only-here.test"
ADDRESSES = {1: (socket.AF_INET, "192.0.2.77"), 28: (socket.AF_INET6, "2001:db8::77")}  # by record type
SIOCSIFFLAGS, IFF_UP, PR_SET_PDEATHSIG = 0x8914, 1, 1


def raise_loopback():
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def cover_resolv_conf(folder, servers):
    path = pathlib.Path(folder) / "resolv.conf"
    path.write_text("".join(f"nameserver {server}\n" for server in servers))
    subprocess.run(["mount", "--bind", path, os.path.realpath("/etc/resolv.conf")], check=True,
                   capture_output=True)


def bind():
    """Sockets for IPv4 and, where the host has it, IPv6."""
    sockets = [socket.socket(type=socket.SOCK_DGRAM)]
    sockets[0].bind(("127.0.0.1", 53))
    with contextlib.suppress(OSError):
        s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        s.bind(("::1", 53))
        sockets.append(s)
    return sockets


def answer(query):
    """RFC 1035 4.1; the question is sent back as it came."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    question = query[12:at + 5]
    kind, = struct.unpack_from(">H", query, at + 1)
    known = ".".join(labels) == NAME
    record = b""
    if known and kind in ADDRESSES:
        data = socket.inet_pton(*ADDRESSES[kind])
        record = struct.pack(">HHHIH", 0xc00c, kind, 1, 60, len(data)) + data
    flags = 0x8180 if known else 0x8183  # or: there is no such name
    return query[:2] + struct.pack(">HHHHH", flags, 1, bool(record), 0, 0) + question + record


def serve(sockets):
    """Until the parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # the command's output is to have an end
    os.dup2(1, 2)
    os.dup2(1, 0)
    while True:
        for s in select.select(sockets, [], [])[0]:
            query, peer = s.recvfrom(4096)
            with contextlib.suppress(IndexError, struct.error, UnicodeDecodeError):
                s.sendto(answer(query), peer)


def main():
    try:
        raise_loopback()
        sockets = bind()
        cover_resolv_conf(sys.argv[1], ["127.0.0.1", "::1"][:len(sockets)])
    except (OSError, subprocess.CalledProcessError) as why:
        print(why, file=sys.stderr)
        sys.exit(77)
    parent = os.getpid()
    if os.fork() == 0:
        if os.getppid() == parent:
            serve(sockets)
        os._exit(0)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
