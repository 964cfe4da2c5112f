"""Names and IPv6 in user-mode NAT: by busybox in a small guest, and by a whole Debian."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

import machine
from debian_guest import boot, free_port
from device_run import finish_devices, run_devices, start_devices
from name_server import ADDRESSES, NAME
from test_net import BLOB, DHCP, LISTEN, MIB, MODULES, digest, exchange, frames_of, server

MAC = "52:54:00:0a:0b:0c"
EUI64 = "5054:ff:fe0a:b0c"  # what a guest makes of it, RFC 4291 appendix A
# Until the address that the router's prefix gives is known to be nobody else's.
WAIT_FOR_ADDRESS = """
ip link set lo up
ip link set eth0 up
until ip -6 addr show dev eth0 scope {scope} | grep -v tentative | grep inet6; do usleep 100000; done
"""


@pytest.fixture
def start_with_names(trapeze, engine, tmp_path):
    """As `start`, in namespaces of its own with a name server that knows one name."""
    command = ["unshare", "-mn"] if os.geteuid() == 0 else ["unshare", "-rmn"]
    command += [sys.executable, pathlib.Path(__file__).with_name("name_server.py"), tmp_path]
    done = subprocess.run([*command, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no namespaces for a name server: {done.stderr.strip()}")
    machines = []

    def start_machine(*args):
        machines.append(machine.Machine([*command, trapeze, "run", "--engine", engine, *args]))
        return machines[-1]

    yield start_machine
    for m in machines:
        m.close()


@pytest.fixture
def loopback6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError as why:
        pytest.skip(f"no IPv6 on this host: {why}")


def test_names(start_with_names, tmp_path):
    """Asked at the address of the network's name server, the host's answers."""
    out = run_devices(start_with_names, tmp_path, MODULES, DHCP + f"""
nslookup -type=a {NAME} 10.0.2.3
nslookup -type=aaaa {NAME} 10.0.2.3
nslookup -type=a nowhere.test 10.0.2.3
""", "--net", "user")
    for _, address in ADDRESSES.values():
        assert out.count(f"Address: {address}\n") == 1, out
    assert "can't find nowhere.test: NXDOMAIN" in out, out


def test_another_name_server(start_with_names, tmp_path):
    """dns= is where the guest finds it."""
    out = run_devices(start_with_names, tmp_path, MODULES, DHCP + f"""
nslookup -type=a {NAME} 10.0.2.99
""", "--net", "user,dns=10.0.2.99")
    assert "10.0.2.2 10.0.2.99" in out and ADDRESSES[1][1] in out, out


def test_names_over_ipv6(start_with_names, loopback6, tmp_path):
    out = run_devices(start_with_names, tmp_path, MODULES, WAIT_FOR_ADDRESS.format(scope="site") + f"""
nslookup -type=a {NAME} fec0::3
""", "--net", "user")
    assert ADDRESSES[1][1] in out, out


def test_tcp_over_ipv6(start, loopback6, tmp_path):
    """An address by router advertisement, and some MiB both ways to a port of the host's ::1."""
    with server(BLOB, socket.AF_INET6) as (port, came):
        out = run_devices(start, tmp_path, MODULES, WAIT_FOR_ADDRESS.format(scope="site") + f"""
ip -6 route
head -c {4 * MIB} /dev/urandom > /tmp/out
nc fec0::2 {port} < /tmp/out > /tmp/in
md5sum < /tmp/out
md5sum < /tmp/in
""", "--net", f"user,ipv4=off,mac={MAC},pcap={tmp_path}/pcap")
    assert f"fec0::{EUI64}/64" in out and "default via fe80::2" in out, out
    assert digest(BLOB) in out and digest(came[0]) in out and len(came[0]) == 4 * MIB, out
    frames = [frame for _, frame in frames_of(tmp_path / "pcap")]
    # What the guest left to be cut was, and nothing was too big for anyone (ICMPv6, RFC 4443 3.2).
    assert max(len(frame) for frame in frames) > 1514
    assert not [f for f in frames if f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 2]


def test_forwarded_port_of_ipv6(start, loopback6, tmp_path):
    """In a network of the user's choice."""
    port = free_port(family=socket.AF_INET6)
    m = start_devices(start, tmp_path, MODULES, WAIT_FOR_ADDRESS.format(scope="global") + f"""
head -c {3 * MIB} /dev/urandom > /tmp/out
md5sum < /tmp/out
""" + LISTEN, "--net", f"user,mac={MAC},network6=fd00:7::,"
                       f"hostfwd=tcp:[::1]:{port}-[fd00:7::{EUI64}]:7")
    before = m.expect("listening", 120)
    with socket.create_connection(("::1", port)) as s:
        got = exchange(s, BLOB)
    m.output = b"== begin\n" + m.output
    after = finish_devices(m)
    assert f"fd00:7::{EUI64}/64" in before, before
    assert digest(got) in before and digest(BLOB) in after, before + after


def test_without_ipv6(start, tmp_path):
    out = run_devices(start, tmp_path, MODULES, DHCP + """
sleep 5
ip -6 addr show dev eth0
""", "--net", "user,ipv6=off")
    assert "lease 10.0.2.15" in out and "inet6 fe80:" in out and "fec0:" not in out, out


def test_debian_with_names(start_with_names, loopback6, debian, disk):
    """A whole Debian configures itself: by DHCP, by router advertisement, and by DHCPv6 without state."""
    guest = boot(start_with_names, debian, disk, net=f",mac={MAC}")
    guest.log_in()
    guest.run(f"until ip -6 addr show scope site | grep -v tentative | grep -q {EUI64}; do sleep 0.2; done")
    out = guest.run("ip -6 addr; networkctl status -a --no-pager; resolvectl --no-pager dns")
    print(out)
    assert f"fec0::{EUI64}/64" in out and "10.0.2.3" in out and "fec0::3" in out, out
    assert guest.run(f"getent ahostsv4 {NAME}").split()[0] == ADDRESSES[1][1]
    assert guest.run(f"getent ahostsv6 {NAME}").split()[0] == ADDRESSES[28][1]
    guest.run("getent hosts nowhere.test", status=2)
    guest.power_off()


def test_debian_by_ssh_over_ipv6(start, loopback6, debian, disk):
    port = free_port(family=socket.AF_INET6)
    guest = boot(start, debian, disk, net=f",mac={MAC},hostfwd=tcp:[::1]:{port}-[fec0::{EUI64}]:22")
    guest.log_in()
    guest.address, guest.port = "::1", port
    assert guest.ssh("echo $SSH_CONNECTION").split()[0] == b"fec0::2"
    data = os.urandom(4 * MIB)
    assert guest.ssh("cat", data) == data
    guest.power_off()
