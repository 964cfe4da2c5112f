"""Runs a shell script in a guest of the cloud kernel with modules loaded: tests of devices."""

import re
import shutil
import subprocess

from conftest import image
from workload_image import patchable_kernel
from workload_run import EXPECTED_LOG, add_folder

SECONDS = 900  # on a busy machine, by the slowest engine

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
exec </dev/console >/dev/console 2>&1
stty -onlcr
export PATH=/bin
cd /extra/modules || exit
for module in $(cat order); do
	insmod $module || echo "no module $module"
done
cd /tmp || exit
echo "== begin"
. /extra/script
echo "== end"
dmesg -r | sed -n 's/^<[0-4]>/log: /p'
poweroff -f
"""


def module_name(path):
    return path.stem.replace("-", "_")


def with_dependencies(folder, names):
    """Paths of modules and of what they need, in the order to load them."""
    paths = {module_name(path): path for path in folder.rglob("*.ko")}
    order = []

    def add(name):
        path = paths[name.replace("-", "_")]
        info = subprocess.run(["readelf", "-p", ".modinfo", path], capture_output=True, text=True,
                              check=True).stdout
        for other in re.search(r"\]\s+depends=(\S*)", info)[1].split(","):
            if other:
                add(other)
        if path not in order:
            order.append(path)

    for name in names:
        add(name)
    return order


def device_image(tmp_path, modules, script, files=()):
    """The kernel, and an initial RAM disk that loads modules and runs a script."""
    kernel, folder = patchable_kernel()
    extra = tmp_path / "extra"
    (extra / "modules").mkdir(parents=True)
    order = with_dependencies(folder, modules)
    for path in order:
        shutil.copy(path, extra / "modules")
    (extra / "modules/order").write_text("".join(f"{path.name}\n" for path in order))
    (extra / "script").write_text(script)
    (extra / "init").write_text(INIT)
    (extra / "init").chmod(0o755)
    for path in files:
        shutil.copy(path, extra)
    return str(kernel), str(add_folder(tmp_path, image("initramfs"), extra))


def start_devices(start, tmp_path, modules, script, *args, seconds=SECONDS, append="", files=()):
    """The machine that runs it, with args on its command line."""
    kernel, initrd = device_image(tmp_path, modules, script, files)
    return start("--kernel", kernel, "--initrd", initrd, "--append",
                 f"console=ttyS0 quiet rdinit=/extra/init panic=-1 {append}", "--timeout",
                 str(seconds), *args)


def check_log(output, expected=()):
    """Nothing at level warning or worse that is not known."""
    known = "|".join([*EXPECTED_LOG, *expected])
    lines = re.findall(r"^log: .*", output, re.M)
    assert not [line for line in lines if not re.search(known, line)], output


def finish_devices(m, seconds=SECONDS, expected=()):
    """What the script printed, after checks of how the machine ended and of the kernel's log."""
    status = m.wait(seconds + 10)
    output = m.output.decode(errors="replace").replace("\r\n", "\n")
    assert status == 0, output[-3000:] + m.errors()
    check_log(output, expected)
    return re.search(r"^== begin\n(.*)^== end", output, re.M | re.S)[1]


def run_devices(start, tmp_path, modules, script, *args, **how):
    expected = how.pop("expected", ())
    m = start_devices(start, tmp_path, modules, script, *args, **how)
    return finish_devices(m, how.get("seconds", SECONDS), expected)
