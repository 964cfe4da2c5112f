"""A host directory in the guest: what is there, what the guest does to it, and what it must not do.

Scripts run in the guest on the share and natively, by the same busybox, on a copy; both have to print
the same and to leave the same tree.
"""

import os
import random
import shutil
import stat
import subprocess

import pytest

from conftest import image
from device_run import finish_devices, run_devices, start_devices
from workload_image import patchable_kernel
from test_cli import call, refused

MODULES = ["virtio_pci", "virtiofs"]
MOUNT = """
mkdir -p /mnt
mount -t virtiofs share /mnt || exit 1
cd /mnt
"""

LOOK = """
find . | LC_ALL=C sort | while read -r f; do
	if [ -L "$f" ]; then echo "$f -> $(readlink "$f")"
	elif [ -d "$f" ]; then stat -c '%n %F %a %u %g %Y' "$f"
	else stat -c '%n %F %s %a %u %g %h %Y' "$f"; fi
done
find . -type f -exec sha256sum '{}' + | LC_ALL=C sort -k 2
ls many | wc -l
"""

CHANGE = """
mkdir -p new/deep/er
for i in $(seq 50); do echo "line $i" > new/file$i; done
cat new/file* > new/all
head -c 3000000 /dev/zero | tr '\\0' x > new/large
dd if=new/large of=new/part bs=1000 skip=7 count=11 2>/dev/null
dd if=new/all of=new/large bs=1 seek=2999990 conv=notrunc 2>/dev/null
truncate -s 100000 new/part
truncate -s 10 new/all
echo more >> new/all
mv new/file1 new/deep/er/moved
mv new/file2 new/file3
mv new/deep new/depth
ln new/file4 new/hard
echo through the link >> new/hard
ln -s ../a/nowhere new/soft
ln -s file5 new/good
echo by symlink >> new/good
rm new/file6 new/file7
mkdir new/empty
rmdir new/empty
chmod 640 new/file8
chmod 1777 new/depth
touch -d '2001-02-03 04:05:06' new/file9
mkfifo new/pipe
(umask 077; : > new/private; mkdir new/closed)
rmdir new/depth 2>/dev/null || echo not empty
rm new/depth 2>/dev/null || echo a directory
cat new/none 2>/dev/null || echo none
cp -a many copied
rm -r many
exec 5<new/file10; rm new/file10; cat <&5; exec 5<&-
"""


@pytest.fixture
def tree(tmp_path):
    """Files of many sizes, names and modes."""
    top = tmp_path / "tree"
    dice = random.Random(5)
    for folder in ["a/b/c", "a/bb", "many", "odd names"]:
        (top / folder).mkdir(parents=True)
    for size in [0, 1, 4095, 4096, 4097, 65536, 1048576, 1500001]:
        path = top / f"a/b/{size}"
        path.write_bytes(dice.randbytes(size))
        path.chmod(dice.choice([0o600, 0o644, 0o755, 0o444]))
    for i in range(700):
        (top / f"many/{i}").write_text(f"{i}\n")
    (top / "odd names/x y").write_text("space")
    (top / "odd names/é").write_text("not ASCII")
    (top / f"odd names/{'n' * 255}").write_text("long")
    (top / "a/link").symlink_to("b/4095")
    (top / "a/outside").symlink_to("/etc/shadow")
    (top / "a/above").symlink_to("../../../../../../..")
    os.link(top / "a/b/4096", top / "a/bb/same")
    return top


def native(script, folder):
    """What busybox prints on the host."""
    tools = folder.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        busybox = image("busybox")
        for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True,
                                     text=True).stdout.split():
            (tools / applet).symlink_to(busybox)
    return subprocess.run([tools / "sh", "-c", script], cwd=folder, env={"PATH": str(tools)},
                          check=True, capture_output=True, text=True).stdout


def describe(top):
    """All that is below a folder, but times that depend on when it was made."""
    found = {}
    for path in sorted(top.rglob("*")):
        s = path.lstat()
        content = None
        if stat.S_ISREG(s.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(s.st_mode):
            content = os.readlink(path)
        old = s.st_mtime if s.st_mtime < 1e9 or path.name == "file9" else None
        found[str(path.relative_to(top))] = (stat.filemode(s.st_mode), s.st_uid, s.st_gid,
                                             s.st_nlink if path.is_file() else 0, old, content)
    return found


def share(path, *more):
    return ["--share", ",".join([f"path={path},tag=share", *more])]


def test_looks_the_same(start, tmp_path, tree):
    expected = native(LOOK, tree)
    assert run_devices(start, tmp_path, MODULES, MOUNT + LOOK, *share(tree)) == expected


def test_changes_the_same(start, tmp_path, tree):
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, symlinks=True)
    expected = native(CHANGE, copy)
    assert run_devices(start, tmp_path, MODULES, MOUNT + CHANGE, *share(tree)) == expected
    wanted, found = describe(copy), describe(tree)
    # copytree() knows no hard links.
    for path in ["a/b/4096", "a/bb/same"]:
        wanted.pop(path), found.pop(path)
    assert found.keys() == wanted.keys()
    for path, what in wanted.items():
        assert found[path] == what, path


def test_links_are_the_guests(start, tmp_path, tree):
    """What a link leads to is looked for in the guest, and .. ends at the share's top."""
    (tmp_path / "secret").write_text("of the host\n")
    (tree / "up").symlink_to("../secret")
    (tree / "absolute").symlink_to(tmp_path / "secret")
    out = run_devices(start, tmp_path, MODULES, MOUNT + f"""
cat up absolute {tmp_path}/secret ../secret 2>&1 | grep -c 'No such file'
echo of the guest > /secret
cat up
mknod device c 1 3 2>&1
echo text > ../secret
""", *share(tree))
    assert out == "4\nof the guest\nmknod: device: Operation not permitted\n", out
    assert (tmp_path / "secret").read_text() == "of the host\n"
    assert not (tree / "device").exists()


def test_read_only(start, tmp_path, tree):
    before = describe(tree)
    out = run_devices(start, tmp_path, MODULES, MOUNT + """
for command in 'touch many/1' 'rm many/1' 'mkdir x' 'mv many m' 'chmod 777 a' 'ln many/1 l' \\
	'ln -s a s' 'truncate -s 0 many/2' 'rmdir a' 'cp many/1 many/x'; do
	$command 2>&1 | grep -c 'Read-only file system'
done
cat many/699
""", *share(tree, "readonly"))
    assert out == "1\n" * 10 + "699\n", out
    assert describe(tree) == before


@pytest.mark.every_engine
def test_host_changes_are_seen(start, tmp_path, tree):
    m = start_devices(start, tmp_path, MODULES, MOUNT + """
cat many/7
ls new 2>/dev/null || echo waiting
until [ -e new ]; do usleep 50000; done
until [ "$(cat many/7)" = changed ]; do usleep 50000; done
until [ ! -e many/8 ]; do usleep 50000; done
echo seen
""", *share(tree))
    m.expect("waiting", 120)
    (tree / "many/7").write_text("changed\n")
    (tree / "many/8").unlink()
    (tree / "new").mkdir()
    m.output = b"== begin\n" + m.output
    assert "seen" in finish_devices(m)


def test_as_root_file_system(start, tmp_path):
    """The machine's own /: a tree of busybox', with an init of its own."""
    top = tmp_path / "top"
    for folder in ["bin", "dev", "proc", "sys", "tmp", "sbin", "etc"]:
        (top / folder).mkdir(parents=True)
    shutil.copy(image("busybox"), top / "bin/busybox")
    for applet in ["sh", "mount", "cat", "ls", "poweroff", "sync", "grep"]:
        (top / "bin" / applet).symlink_to("busybox")
    (top / "sbin/init").write_text("""#!/bin/sh
mount -t proc proc /proc
exec </dev/console >/dev/console 2>&1
grep ' / ' /proc/mounts
echo "process 1 is $(cat /proc/1/comm)"
echo written by the guest > /etc/motd
sync
poweroff -f
""")
    (top / "sbin/init").chmod(0o755)
    m = start_devices(start, tmp_path, MODULES, """
mkdir /newroot
mount -t virtiofs share /newroot
mount -t devtmpfs devtmpfs /newroot/dev
exec switch_root /newroot /sbin/init
""", *share(top))
    assert m.wait(250) == 0, m.output
    output = m.output.decode(errors="replace")
    assert "share / virtiofs rw" in output and "process 1 is init" in output, output
    assert (top / "etc/motd").read_text() == "written by the guest\n"


def test_owner_root(trapeze, engine, tmp_path, tree):
    """An ordinary user's files look like root's; those of others cannot be made."""
    import machine

    if os.geteuid() == 0:
        user, command = 65534, ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for path in [tree, *tree.rglob("*")]:
            os.lchown(path, user, user)
        for path in [tmp_path, *tmp_path.parents]:
            if not path.stat().st_mode & 0o005 and len(path.parts) > 2:
                path.chmod(path.stat().st_mode | 0o055)
    else:
        user, command = os.geteuid(), []
    # What the cache has may be for its owner only.
    kernel = shutil.copy(patchable_kernel()[0], tmp_path / "kernel")
    if subprocess.run([*command, "cat", trapeze, kernel], capture_output=True).returncode:
        pytest.skip("another user cannot run the program from here")
    machines = []

    def start(_, __, *args):
        args = ["--kernel", str(kernel), *args]
        machines.append(machine.Machine([*command, trapeze, "run", "--engine", engine, *args]))
        return machines[-1]

    try:
        out = run_devices(start, tmp_path, MODULES, MOUNT + """
stat -c '%u %g' many/1
echo x > mine; stat -c '%u %g' mine
chown 0:0 mine && echo root
chown 5:5 mine 2>&1
""", *share(tree, "owner=root"))
    finally:
        for m in machines:
            m.close()
    assert out == "0 0\n0 0\nroot\nchown: mine: Operation not permitted\n", out
    assert (tree / "mine").stat().st_uid == user


@pytest.mark.parametrize("text,words", [
    ("path=DIR", ["tag=NAME"]),
    ("tag=x", ["path=DIR"]),
    ("path=DIR/none,tag=x", ["DIR/none", "No such file"]),
    ("path=FILE,tag=x", ["FILE", "Not a directory"]),
    ("path=DIR,tag=" + "x" * 37, ["36 bytes"]),
    ("path=DIR,tag=x,writable", ["writable"]),
    ("path=DIR,tag=x,owner=me", ["owner=me"]),
])
def test_refusals(trapeze, echo, tmp_path, text, words):
    (tmp_path / "file").write_text("")
    text, *words = [w if w == "path=DIR" and w in words else
                    w.replace("DIR", str(tmp_path)).replace("FILE", f"{tmp_path}/file")
                    for w in [text, *words]]
    refused(call(trapeze, "run", "--kernel", echo, "--share", text), *words)
