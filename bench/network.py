#!/usr/bin/env python3
"""TCP between guest and host over user-mode networking, by iperf3: Trapeze against QEMU's TCG.

Both machines boot the same kernel and initial RAM disk, one after the other and in turns. The server
runs on the host, whose clock it measures by. Prints Gbit/s, the best of the rounds.
"""

import argparse
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "script"))
import guest_image  # noqa: E402

PROGRAM = {"programs": [("iperf3", "usr/bin/iperf3")]}
MODULES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
           "failover", "net_failover", "virtio_net"]
INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
exec </dev/null >/dev/console 2>&1
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
for word in $(cat /proc/cmdline); do
	case $word in iperf=*) set -- $(echo ${word#iperf=} | tr , ' ') ;; esac
done
iperf3 -c 10.0.2.2 -p "$@"
poweroff -f
"""


def image(folder, base):
    kernel_name = (guest_image.CACHE / "kernel/linux-image-cloud-amd64/package").read_text().strip()
    package = guest_image.Packages().unpack(kernel_name)
    root = folder / "root"
    guest_image.install(root, PROGRAM)
    (root / "modules").mkdir()
    for path in package.glob("lib/modules/**/*.ko"):
        if path.stem in MODULES:
            shutil.copy(path, root / "modules")
    (root / "modules/order").write_text(" ".join(MODULES))
    (root / "start").write_text(INIT)
    (root / "start").chmod(0o755)
    out = folder / "initramfs.cpio"
    guest_image.archive(root, [base], out)
    return next(package.glob("boot/vmlinuz-*")), out


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure(server, command, reverse):
    """Bits a second that the server saw."""
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as host:
        try:
            guest = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   timeout=300, text=True)
            out, _ = host.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            host.kill()
            sys.exit(f"iperf3 got no answer:\n{guest.stdout[-2000:]}")
    result = json.loads(out)
    if "error" in result:
        sys.exit(f"iperf3: {result['error']}\n{guest.stdout[-2000:]}")
    return result["end"]["sum_sent" if reverse else "sum_received"]["bits_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    base = subprocess.run([ROOT / "script/image", "initramfs"], check=True, capture_output=True,
                          text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as temp:
        kernel, initrd = image(pathlib.Path(temp), base)
        iperf = guest_image.native_command(pathlib.Path(temp) / "root", "iperf3")
        ways = {
            "trapeze": [args.build / "src/cli/trapeze", "run", "--engine", args.engine,
                        "--net", "user", "--serial", "stdio"],
            "TCG": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35",
                    "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-m", "512",
                    "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"],
        }
        for name, option in [("guest to host", ""), ("host to guest", ",-R")]:
            best = dict.fromkeys(ways, 0)
            for _ in range(args.rounds):
                for way, command in ways.items():
                    port = free_port()
                    dash = "-" if way == "TCG" else "--"
                    line = f"console=ttyS0 quiet panic=-1 rdinit=/start iperf={port},-t," \
                           f"{args.seconds}{option}"
                    bits = measure([*iperf, "-s", "-1", "-J", "-p", str(port)],
                                   [*command, f"{dash}kernel", kernel, f"{dash}initrd", initrd,
                                    f"{dash}append", line], bool(option))
                    best[way] = max(best[way], bits)
            ratio = best["trapeze"] / best["TCG"]
            print(f"{name:14}  trapeze {best['trapeze'] / 1e9:6.3f}  TCG {best['TCG'] / 1e9:6.3f}"
                  f" Gbit/s  {ratio:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
