"""Network cards on each backend, driven by Debian's cloud kernel."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import threading

import pytest

from debian_guest import free_port
from device_run import finish_devices, run_devices, start_devices
from test_cli import call, refused

MODULES = ["virtio_pci", "virtio_net"]
MIB = 1 << 20
BLOB = bytes(hashlib.sha256(b"%d" % i).digest()[0] for i in range(4096)) * 1536  # 6 MiB
STATIC = """
ip link set lo up
ip link set eth0 up
ip addr add {}/24 dev eth0
"""
# The lease as udhcpc gives it to a script.
DHCP = """
cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
echo lease $ip $subnet $router $dns $hostname $domain
ifconfig $interface $ip netmask $subnet
route add default gw $router
END
chmod +x /tmp/lease
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -s /tmp/lease 2>/dev/null
"""
# One connection to port 7, which gets /tmp/out.
LISTEN = """
nc -l -p 7 < /tmp/out > /tmp/in &
until netstat -ltn | grep -q ':7 '; do usleep 10000; done
echo listening
wait $!
md5sum < /tmp/in
"""


def exchange(peer, out, ends=False):
    """Sends while it receives, until the other side ends, which waits for our end or does not; what
    came."""
    got = bytearray()

    def send():
        peer.sendall(out)
        if ends:
            peer.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    while data := peer.recv(65536):
        got += data
    sender.join()
    return bytes(got)


def ask_by_datagram(port, text):
    """The answer; asks again, for nobody may listen yet."""
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.settimeout(0.2)
        s.connect(("127.0.0.1", port))
        for _ in range(200):
            s.send(text)
            with contextlib.suppress(TimeoutError):
                return s.recv(100)
    return None


def digest(data):
    return hashlib.md5(data).hexdigest()


@contextlib.contextmanager
def server(out, family=socket.AF_INET):
    """A port on the loopback that takes one connection; then its list has what came."""
    came = []

    def serve():
        peer, _ = listener.accept()
        with peer:
            came.append(exchange(peer, out))

    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((address, 0), family=family) as listener:
        listener.settimeout(120)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], came
        thread.join()


def frames_of(path):
    """The frames of a capture, each with its time in ns, after checks of its form."""
    data = path.read_bytes()
    magic, major, minor, _, _, snap, link = struct.unpack_from("<IHHIIII", data)
    assert (magic, major, minor, link) == (0xa1b23c4d, 2, 4, 1)
    at, frames = 24, []
    while at < len(data):
        seconds, ns, captured, length = struct.unpack_from("<IIII", data, at)
        assert captured == length <= snap and ns < 10**9
        frames.append((seconds * 10**9 + ns, data[at + 16:at + 16 + captured]))
        at += 16 + captured
    assert at == len(data)
    return frames


@pytest.mark.every_engine
def test_dhcp_and_tcp_to_the_host(start, tmp_path):
    """A lease, then some MiB both ways at once, captured."""
    with server(BLOB) as (port, came):
        out = run_devices(start, tmp_path, MODULES, DHCP + f"""
head -c {4 * MIB} /dev/urandom > /tmp/out
nc 10.0.2.2 {port} < /tmp/out > /tmp/in
md5sum /tmp/out /tmp/in
ip link show eth0
""", "--net", f"user,mac=52:54:00:0a:0b:0c,hostname=guest7,domain=example.org,"
              f"pcap={tmp_path}/pcap")
    assert "lease 10.0.2.15 255.255.255.0 10.0.2.2 10.0.2.3 guest7 example.org" in out, out
    assert "52:54:00:0a:0b:0c" in out and "mtu 1500" in out, out
    sent, received = re.findall(r"^([0-9a-f]{32})", out, re.M)
    assert received == digest(BLOB) and sent == digest(came[0]) and len(came[0]) == 4 * MIB
    frames = frames_of(tmp_path / "pcap")
    times = [time for time, _ in frames]
    assert times == sorted(times)
    # DHCP to port 67; what the guest left to be cut is longer than the MTU.
    assert any(f[12:14] == b"\x08\x00" and f[23] == 17 and f[36:38] == b"\0C" for _, f in frames)
    assert max(len(f) for _, f in frames) > 1514
    payload = sum(len(f) - 54 for _, f in frames if f[23] == 6 and f[6:12] == b"RT\0\n\x0b\x0c")
    assert payload > 4 * MIB


def test_forwarded_ports(start, tmp_path, peer_program):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    m = start_devices(start, tmp_path, MODULES, DHCP + f"""
head -c {3 * MIB} /dev/urandom > /tmp/out
md5sum < /tmp/out
/extra/peer datagram 9 &
""" + LISTEN + """
""", "--net", f"user,hostfwd=tcp:127.0.0.1:{tcp}-:7,hostfwd=udp:127.0.0.1:{udp}-10.0.2.15:9",
                      files=[peer_program])
    before = m.expect("listening", 120)
    assert ask_by_datagram(udp, b"a datagram") == b"a datagram"
    with socket.create_connection(("127.0.0.1", tcp)) as s:
        got = exchange(s, BLOB)
    m.output = b"== begin\n" + m.output
    after = finish_devices(m)
    assert digest(got) in before and digest(BLOB) in after, before + after


def test_restricted_and_elsewhere(start, tmp_path):
    """A network of the user's choice, in which nothing leads to the host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        out = run_devices(start, tmp_path, MODULES, DHCP + f"""
nc -w 3 192.168.9.1 {port} </dev/null || echo refused
cat /sys/class/net/eth0/mtu
""", "--net", "user,network=192.168.9.0/24,host=192.168.9.1,dhcpstart=192.168.9.77,restrict=on,"
              "mtu=9000")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "lease 192.168.9.77 255.255.255.0" in out and "refused\n9000\n" in out, out


def test_several_queues(start, tmp_path):
    with server(b"") as (port, came):
        out = run_devices(start, tmp_path, MODULES, STATIC.format("10.0.2.15") + f"""
ls /sys/class/net/eth0/queues
head -c {4 * MIB} /dev/urandom > /tmp/out
nc 10.0.2.2 {port} < /tmp/out
md5sum < /tmp/out
""", "--net", "user,queues=2", "--vcpus", "2")
    for queue in ("rx-0", "rx-1", "tx-0", "tx-1"):
        assert queue in out, out
    assert digest(came[0]) in out and len(came[0]) == 4 * MIB


def test_two_cards(start, tmp_path):
    out = run_devices(start, tmp_path, MODULES, """
ip link set eth0 up
ip link set eth1 up
ip addr add 10.0.2.15/24 dev eth0
ip addr add 10.0.3.15/24 dev eth1
ping -c 1 -W 10 10.0.2.2 | grep received
ping -c 1 -W 10 10.0.3.2 | grep received
""", "--net", "user", "--net", "user,network=10.0.3.0/24")
    assert out.count("1 packets received") == 2, out


def test_link(start, tmp_path):
    """Two machines; when one goes the other sees its carrier go, and the next gets in its place."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    path = f"{tmp_path}/link"
    a = start_devices(start, tmp_path / "a", MODULES, STATIC.format("10.1.1.1") + """
nc -l -p 7 > /tmp/in
md5sum < /tmp/in
until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 10000; done
echo gone
until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 10000; done
nc -l -p 7 > /tmp/in
md5sum < /tmp/in
""", "--net", f"link,listen={path}")
    client = STATIC.format("10.1.1.2") + f"""
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do usleep 10000; done
head -c {2 * MIB} /dev/urandom > /tmp/out
until nc 10.1.1.1 7 < /tmp/out; do usleep 100000; done
md5sum < /tmp/out
"""
    b = run_devices(start, tmp_path / "b", MODULES, client, "--net", f"link,connect={path}")
    first = a.expect("gone", 120)
    c = run_devices(start, tmp_path / "c", MODULES, client, "--net", f"link,connect={path}")
    a.output = b"== begin\n" + a.output
    second = finish_devices(a)
    assert b.strip() in first and c.strip() in second, first + b + second + c


@pytest.fixture
def tap():
    """A tap interface with an address, gone afterwards."""
    name = f"trz{os.getpid() % 100000}"
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("no tap interface without root and ip(8)")
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tap interface: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "addr", "add", "10.213.7.1/24", "dev", name], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name])


def test_tap(start, tmp_path, tap):
    m = start_devices(start, tmp_path, MODULES, STATIC.format("10.213.7.2") + f"""
head -c {4 * MIB} /dev/urandom > /tmp/out
md5sum < /tmp/out
""" + LISTEN + """
""", "--net", f"tap,ifname={tap}")
    before = m.expect("listening", 120)
    with socket.create_connection(("10.213.7.2", 7), timeout=60) as s:
        got = exchange(s, BLOB)
    m.output = b"== begin\n" + m.output
    after = finish_devices(m)
    assert digest(got) in before and digest(BLOB) in after, before + after


# What --net refuses; PORT is a port in use, DIR a folder.
BAD = [
    ("wifi", ["--net wifi", "user, tap, link"]),
    ("user,mac=52:54:00:12:34", ["mac=52:54:00:12:34", "six bytes"]),
    ("user,queues=99", ["queues=99", "1 to 16"]),
    ("user,colour=blue", ["colour"]),
    ("user,hostfwd=tcp:127.0.0.1:PORT-:22", ["hostfwd=tcp:127.0.0.1:PORT-:22", "in use"]),
    ("user,hostfwd=tcp:[::1]:22-:22", ["hostfwd=tcp:[::1]:22-:22", "IPv6"]),
    ("user,network6=fd00::1", ["network6=fd00::1", "64"]),
    ("user,rate=fast", ["rate=fast", "bits a second"]),
    ("user,pcap=DIR/no/file", ["DIR/no/file", "No such file"]),
    ("tap,ifname=lo", ["lo"]),
    ("link", ["listen=PATH", "connect=PATH"]),
    ("link,listen=DIR", ["DIR", "not a socket"]),
    ("link,listen=/tmp/" + "x" * 200, ["107"]),
]


@pytest.mark.parametrize("text,words", BAD, ids=[text[:40] for text, _ in BAD])
def test_refusals(trapeze, echo, tmp_path, text, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text, *words = [w.replace("PORT", port).replace("DIR", str(tmp_path)) if "hostfwd" in w or
                        "DIR" in w else w for w in [text, *words]]
        refused(call(trapeze, "run", "--kernel", echo, "--net", text), *words)


def test_tap_without_rights(trapeze, echo):
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    else:
        command = []
    done = subprocess.run([*command, trapeze, "run", "--kernel", echo, "--net", "tap,ifname=trznone"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if "Permission denied" in done.stderr and "dev/net/tun" not in done.stderr:
        pytest.skip("another user cannot run the program from here")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert re.search("no permission|/dev/net/tun", done.stderr), done


def test_too_many(trapeze, echo):
    refused(call(trapeze, "run", "--kernel", echo, *["--net", "user"] * 9), "more than 8")


def test_reboot(start, tmp_path, peer_program):
    """Cards, shares and sockets start anew with the machine, which keeps its host's ends of them."""
    shared, path = tmp_path / "shared", f"{tmp_path}/vsock"
    shared.mkdir()
    (shared / "open").write_text("")
    m = start_devices(start, tmp_path, [*MODULES, "virtiofs", "vmw_vsock_virtio_transport"], """
mkdir /mnt
mount -t virtiofs share /mnt
""" + STATIC.format("10.0.2.15") + """
ping -c 1 -W 10 10.0.2.2 | grep received
(exec 5</mnt/open; /extra/peer listen 5) &
sleep 1
echo "run $(cat /mnt/count 2>/dev/null)"
if [ ! -e /mnt/count ]; then
	echo 2 > /mnt/count
	sync
	reboot -f
fi
/extra/peer refuse 9
""", "--net", "user", "--share", f"path={shared},tag=share", "--vsock", f"path={path},cid=3",
                      files=[peer_program])
    m.expect("run", 120)
    m.expect("run 2", 120)
    m.output = b"== begin\n" + m.output
    assert "connect: Connection reset" in finish_devices(m)
    assert (shared / "count").read_text() == "2\n"
