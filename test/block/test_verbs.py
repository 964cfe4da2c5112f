"""The verb image: what it makes and prints, what it refuses and in which words."""

import json
import os
import pathlib
import pty
import struct
import subprocess

import pytest

from conftest import TRAPEZE, pattern

MIB = 1024 * 1024


def refused(done, *words, status=1):
    """The status, and one line on stderr with these words."""
    assert done.returncode == status, done
    assert done.stderr.startswith("trapeze: ") and done.stderr.count("\n") == 1, done
    for word in words:
        assert word in done.stderr, done


def info(tools, image):
    return json.loads(tools.image("info", "--json", image).stdout)


@pytest.mark.parametrize("cluster", ["512B", "4K", "64K", "2M"])
@pytest.mark.parametrize("options", ["", "--version=2", "--refcount-bits=1", "--refcount-bits=64",
                                     "--lazy-refcounts"])
def test_create(tools, cluster, options):
    """QEMU sees what was asked for, and ours and theirs agree on what it is."""
    tools.image("create", f"--cluster-size={cluster}", *options.split(), "image", "3G")
    tools.check("image")
    ours, theirs = info(tools, "image"), json.loads(
        tools.qemu("info", "--output=json", "image").stdout)
    more = theirs["format-specific"]["data"]
    assert ours["size"] == theirs["virtual-size"] == 3 << 30
    assert ours["cluster_size"] == theirs["cluster-size"]
    assert ours["refcount_bits"] == more["refcount-bits"]
    assert ours["version"] == {"0.10": 2, "1.1": 3}[more["compat"]]
    assert ours["lazy_refcounts"] == more.get("lazy-refcounts", False) == ("lazy" in options)
    assert ours["file_bytes"] == (tools.folder / "image").stat().st_size


def test_create_raw(tools):
    tools.image("create", "-f", "raw", "image", "5M")
    assert (tools.folder / "image").read_bytes() == bytes(5 * MIB)


def test_backing_is_seen_from_the_image(tools):
    """A relative name is relative to the image's folder, wherever the command runs."""
    (tools.folder / "a").mkdir()
    (tools.folder / "a/base").write_bytes(pattern(MIB))
    tools.image("create", "-b", "base", "a/image")
    assert info(tools, "a/image")["backing"] == "base"
    assert info(tools, "a/image")["backing_format"] == "raw"
    tools.same("a/base", "a/image")
    tools.image("convert", "-O", "raw", "a/image", "flat")
    tools.run("cmp", "flat", "a/base")


@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_convert_chain(tools, to):
    """The chain becomes one file, which has no room for zeroes."""
    data = pattern(3 * MIB)
    (tools.folder / "base").write_bytes(data + bytes(MIB))
    tools.image("create", "-b", "base", "middle", "8M")
    tools.io("middle", "write -P 3 1M 100k")
    tools.image("create", "-b", "middle", "image")
    tools.io("image", "write -P 4 6M 64k", "write -P 0 7M 1M")
    tools.image("convert", "-O", to, "image", "flat")
    tools.qemu("compare", "image", "flat")
    assert (tools.folder / "flat").stat().st_blocks * 512 < 4 * MIB
    if to == "qcow2":
        tools.check("flat")
        assert not info(tools, "flat")["backing"]


def test_convert_options(tools):
    (tools.folder / "source").write_bytes(pattern(MIB))
    tools.image("convert", "--cluster-size=4K", "--version=2", "source", "image")
    assert (info(tools, "image")["cluster_size"], info(tools, "image")["version"]) == (4096, 2)
    tools.check("image")
    tools.same("source", "image")


def test_progress_only_on_a_terminal(tools):
    (tools.folder / "source").write_bytes(pattern(MIB))
    assert tools.image("convert", "source", "image").stderr == ""
    master, slave = pty.openpty()
    subprocess.run([TRAPEZE, "image", "convert", "source", "image"], cwd=tools.folder, check=True,
                   stderr=slave)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert "convert [" in shown and shown.endswith("\r\x1b[K"), shown


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cluster", ["512B", "64K"])
def test_resize(tools, version, cluster):
    data = pattern(2 * MIB)
    (tools.folder / "source").write_bytes(data)
    tools.image("convert", f"--version={version}", f"--cluster-size={cluster}", "source", "image")
    refused(tools.image("resize", "image", "1M", status=None), "--shrink")
    tools.image("resize", "--shrink", "image", f"{MIB + 512}B")
    tools.check("image")
    tools.image("resize", "image", "+3M")
    tools.check("image")
    (tools.folder / "expected").write_bytes(data[:MIB + 512] + bytes(3 * MIB))
    tools.same("expected", "image")
    tools.image("resize", "image", "20G")  # another L1 table
    tools.check("image")
    assert info(tools, "image")["size"] == 20 << 30
    tools.image("resize", "--shrink", "image", f"{4 * MIB + 512}B")
    tools.same("expected", "image")


def test_resize_over_longer_backing(tools):
    """What is added reads as zeroes, whatever the backing file has there."""
    (tools.folder / "base").write_bytes(b"\xaa" * (4 * MIB))
    for version in 2, 3:
        tools.image("create", f"--version={version}", "-b", "base", "image", f"{MIB + 512}B")
        tools.io("image", "write -P 1 1M 512")
        tools.image("resize", "image", "6M")
        tools.check("image")
        (tools.folder / "expected").write_bytes(
            b"\xaa" * MIB + b"\1" * 512 + bytes(5 * MIB - 512))
        tools.same("expected", "image")


def test_resize_raw(tools):
    (tools.folder / "image").write_bytes(b"x" * 4096)
    tools.image("resize", "-f", "raw", "image", "+4K")
    assert (tools.folder / "image").read_bytes() == b"x" * 4096 + bytes(4096)


def test_resize_with_snapshots(tools):
    tools.image("create", "image", "8M")
    tools.qemu("snapshot", "-c", "one", "image")
    refused(tools.image("resize", "--shrink", "image", "4M", status=None), "snapshots")
    tools.image("resize", "image", "1G")
    tools.check("image")
    tools.image("create", "--version=2", "image", "8M")
    tools.qemu("snapshot", "-c", "one", "image")
    refused(tools.image("resize", "image", "16M", status=None), "snapshots")


def test_rebase(tools):
    """The disk keeps its content over a different, a shorter, and no backing file."""
    data = bytearray(pattern(4 * MIB))
    (tools.folder / "old").write_bytes(data)
    tools.image("create", "-b", "old", "image", "5M")
    tools.io("image", "write -P 5 100k 10k")
    data[100 * 1024:110 * 1024] = b"\5" * 10240
    (tools.folder / "expected").write_bytes(data + bytes(MIB))
    other = bytearray(data)
    other[MIB:MIB + 70000] = bytes(70000)
    (tools.folder / "new").write_bytes(other[:3 * MIB])
    for backing in ["new", "old", ""]:
        tools.image("rebase", "-b", backing, "image")
        tools.check("image")
        tools.same("expected", "image")
        assert (info(tools, "image")["backing"] or "") == backing


def test_rebase_takes_what_differs(tools):
    data = bytearray(pattern(4 * MIB))
    (tools.folder / "old").write_bytes(data)
    tools.image("create", "-b", "old", "image")
    data[MIB] ^= 1
    (tools.folder / "new").write_bytes(data)
    tools.image("rebase", "-b", "new", "image")
    assert json.loads(tools.image("check", "--json", "image").stdout)["clusters_allocated"] == 1


def test_rebase_unsafe(tools):
    (tools.folder / "old").write_bytes(pattern(MIB))
    tools.image("create", "-b", "old", "image")
    (tools.folder / "old").rename(tools.folder / "moved")
    refused(tools.image("rebase", "-b", "moved", "image", status=None), "old", "No such file")
    tools.image("rebase", "-u", "-b", "moved", "-F", "raw", "image")
    tools.same("moved", "image")
    tools.check("image")


def test_check_leaks(tools):
    """Refcounts that are too high, and their repair."""
    tools.image("create", "image", "8M")
    tools.drive("fill", "image", 1, 0, MIB)
    image = tools.folder / "image"
    blob = bytearray(image.read_bytes())
    table, = struct.unpack_from(">Q", blob, 48)
    block, = struct.unpack_from(">Q", blob, table)
    struct.pack_into(">H", blob, block + 2 * 100, 1)
    struct.pack_into(">H", blob, block + 2 * 101, 7)
    image.write_bytes(blob + bytes(102 * 65536 - len(blob)))
    done = tools.image("check", "image", status=3)
    assert "leak: cluster 100 " in done.stdout and "2 leaked clusters" in done.stdout
    assert json.loads(tools.image("check", "--json", "image", status=3).stdout)["leaks"] == 2
    tools.check("image", leaks=True)
    assert "2 leaks repaired" in tools.image("check", "--repair", "image").stdout
    tools.check("image")


CORRUPTIONS = {
    "refcount 0": lambda b, t, k, l1, l2: struct.pack_into(">H", b, k + 2 * 5, 0),
    "L1 reserved": lambda b, t, k, l1, l2: b.__setitem__(l1 + 7, b[l1 + 7] | 1),
    "L2 table away": lambda b, t, k, l1, l2: struct.pack_into(">Q", b, l1, 1 << 63 | 1 << 40),
    "cluster away": lambda b, t, k, l1, l2: struct.pack_into(">Q", b, l2, 1 << 63 | 1 << 40),
    "cluster unaligned": lambda b, t, k, l1, l2: b.__setitem__(l2 + 6, b[l2 + 6] | 2),
    "copied flag": lambda b, t, k, l1, l2: b.__setitem__(l2, b[l2] & 0x7f),
    "twice": lambda b, t, k, l1, l2: b.__setitem__(slice(l2, l2 + 8), b[l2 + 8:l2 + 16]),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_check_corruptions(tools, kind):
    tools.image("create", "image", "8M")
    tools.drive("fill", "image", 1, 0, MIB)
    image = tools.folder / "image"
    blob = bytearray(image.read_bytes())
    at = lambda offset: struct.unpack_from(">Q", blob, offset)[0] & ((1 << 56) - 512)
    table, l1 = at(48), at(40)
    CORRUPTIONS[kind](blob, table, at(table), l1, at(l1))
    image.write_bytes(blob)
    assert tools.qemu("check", "image", status=None).returncode in (2, 1)
    tools.image("check", "image", status=2)
    tools.image("check", "--repair", "image", status=2)
    assert image.read_bytes() == blob  # nothing is repaired where data is at stake


def test_lazy_refcounts_left_dirty(tools):
    """A writer with lazy refcounts that died: they are made anew, by the next writer or by check."""
    for repair in False, True:
        tools.qemu("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "image", "8M")
        tools.io("image", "write -P 1 0 1M", "write -P 2 4M 64k", "flush", "abort", status=None)
        assert info(tools, "image")["dirty"]
        tools.image("check", "image", status=2)
        if repair:
            tools.image("check", "--repair", "image")
        else:
            tools.drive("fill", "image", 3, 2 * MIB, MIB)
        tools.check("image")
        assert not info(tools, "image")["dirty"]
        assert "read 1048576" in tools.io("image", "read -P 1 0 1M", "read -P 2 4M 64k")


def test_locks(tools):
    """Machines, our tools and QEMU's keep off each other's images."""
    tools.image("create", "image", "1M")
    with subprocess.Popen([tools.driver_path, "hold", "image"], cwd=tools.folder, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "open\n"
        assert "lock" in tools.qemu("check", "image", status=1).stderr
        assert "lock" in tools.qemu("info", "image", status=1).stderr
        for verb in ["check", "image"], ["resize", "image", "2M"], ["create", "image", "1M"], \
                ["convert", "image", "copy"]:
            refused(tools.image(*verb, status=None), "image: in use")
        tools.image("info", "image")  # only looks
        holder.stdin.close()
    tools.check("image")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", "image"], cwd=tools.folder, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdin.write("write 0 64k\n")
        holder.stdin.flush()
        holder.stdout.readline()
        refused(tools.image("check", "image", status=None), "image: in use")
        holder.stdin.close()
    tools.check("image")


def put(tools, offset, data):
    with open(tools.folder / "image", "r+b") as f:
        f.seek(offset)
        f.write(data)


def make_loop(tools):
    tools.image("create", "-f", "raw", "a", "1M")
    tools.image("create", "-b", "a", "-F", "raw", "b")
    tools.image("create", "-b", "b", "image")
    tools.image("rebase", "-u", "-b", "image", "-F", "qcow2", "b")


# How to make the image, and words that the refusal to convert it has.
REFUSALS = {
    "missing": (lambda t: None, ["image: No such file"]),
    "a directory": (lambda t: (t.folder / "image").mkdir(), ["image: is a directory"]),
    "no permission": (lambda t: t.run("ln", "-s", "/proc/1/mem", "image"), ["image: "]),
    "missing backing": (lambda t: t.image("create", "image", "1M") and t.image(
        "rebase", "-u", "-b", "gone", "-F", "raw", "image"), ["backing file gone: No such file"]),
    "loop": (make_loop, ["loop"]),
    "protocol": (lambda t: t.image("create", "image", "1M") and t.image(
        "rebase", "-u", "-b", "nbd:localhost:1", "-F", "raw", "image"), ["nbd:localhost:1"]),
    "backing of another format": (lambda t: t.image("create", "image", "1M") and (
        t.folder / "x").write_bytes(bytes(512)) and t.image(
            "rebase", "-u", "-b", "x", "-F", "qcow2", "image"), ["x: not a qcow2 image"]),
    "version 4": (lambda t: t.image("create", "image", "1M") and put(t, 4, b"\0\0\0\4"), ["version 4"]),
    "cluster bits": (lambda t: t.image("create", "image", "1M") and put(t, 20, b"\0\0\0\x20"),
                     ["cluster bits 32"]),
    "size": (lambda t: t.image("create", "image", "1M") and put(t, 24, b"\x7f"), ["size"]),
    "L1 too small": (lambda t: t.image("create", "image", "1M") and put(t, 24, b"\0\1"), ["L1 size 1"]),
    "L1 away": (lambda t: t.image("create", "image", "1M") and put(t, 40, b"\1"), ["L1 table"]),
    "refcount table away": (lambda t: t.image("create", "image", "1M") and put(t, 48, b"\1"),
                            ["refcount table"]),
    "unknown feature": (lambda t: t.image("create", "image", "1M") and put(t, 72, b"\1"),
                        ["features 0x100000000000000"]),
    "cut in the header": (lambda t: t.image("create", "image", "1M") and os.truncate(
        t.folder / "image", 100), ["damaged header"]),
    "cut in the tables": (lambda t: t.image("create", "image", "1M") and os.truncate(
        t.folder / "image", 100000), ["beyond the end of the file"]),
    "encrypted": (lambda t: t.qemu(
        "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "image", "1M"),
        ["encrypted"]),
    "external data": (lambda t: t.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=d", "image",
                                       "1M"), ["external data file"]),
    "extended L2": (lambda t: t.qemu("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "image",
                                     "1M"), ["subclusters"]),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refused_images(tools, kind):
    make, words = REFUSALS[kind]
    make(tools)
    refused(tools.image("convert", "image", "out", status=None), *words)
    assert not (tools.folder / "out").exists()


def test_wrong_format(tools):
    tools.image("create", "-f", "raw", "image", "1M")
    refused(tools.image("convert", "-f", "qcow2", "image", "out", status=None), "not a qcow2 image")
    refused(tools.image("check", "image", status=None), "nothing to check")


def test_corrupt_mark(tools):
    """An image that is marked corrupt can be read, not written."""
    tools.image("create", "image", "1M")
    put(tools, 79, b"\2")
    tools.image("convert", "-O", "raw", "image", "out")
    refused(tools.image("resize", "image", "2M", status=None), "corrupt")


def test_read_only_file(tools):
    if os.getuid() == 0:
        pytest.skip("root may write any file")
    tools.image("create", "image", "1M")
    os.chmod(tools.folder / "image", 0o400)
    refused(tools.image("resize", "image", "2M", status=None), "image: Permission denied")
    tools.check("image")


# Words after `trapeze image`, and words that the refusal has.
BAD_WORDS = [
    ([], ["no verb"]),
    (["shrinkwrap"], ["shrinkwrap"]),
    (["create"], ["no file"]),
    (["create", "image"], ["no size"]),
    (["create", "image", "1M", "2M"], ["2M"]),
    (["create", "image", "lots"], ["lots"]),
    (["create", "image", "-1M"], ["-1M"]),
    (["create", "-f", "vmdk", "image", "1M"], ["--format vmdk", "raw, qcow2"]),
    (["create", "--cluster-size", "100B", "image", "1M"], ["cluster size 100"]),
    (["create", "--cluster-size", "4M", "image", "1M"], ["cluster size 4194304"]),
    (["create", "--cluster-size", "512B", "image", "1024T"], ["too large"]),
    (["create", "--refcount-bits", "3", "image", "1M"], ["3 refcount bits"]),
    (["create", "--refcount-bits", "65", "image", "1M"], ["--refcount-bits 65", "1 to 64"]),
    (["create", "--version", "2", "--refcount-bits", "8", "image", "1M"], ["16 refcount bits"]),
    (["create", "--version", "4", "image", "1M"], ["--version 4", "2 to 3"]),
    (["create", "-f", "raw", "--version", "2", "image", "1M"], ["raw has no versions"]),
    (["create", "-b", "gone", "image"], ["gone: No such file"]),
    (["create", "no/folder/image", "1M"], ["no/folder/image", "No such file"]),
    (["info"], ["no file"]),
    (["info", "a", "b"], ["b"]),
    (["info", "gone"], ["gone: No such file"]),
    (["check", "gone"], ["gone: No such file"]),
    (["convert", "gone"], ["no target"]),
    (["convert", "gone", "out"], ["gone: No such file"]),
    (["resize", "gone"], ["no size"]),
    (["rebase", "gone"], ["--backing"]),
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=lambda w: " ".join(w[0]))
def test_refused_words(tools, words):
    refused(tools.image(*words[0], status=None), *words[1])


def test_own_backing(tools):
    tools.image("create", "image", "1M")
    refused(tools.image("create", "-b", "image", "image", status=None), "its own backing")
    assert info(tools, "image")["size"] == MIB


def test_help(tools):
    verbs = [line.split()[0] for line in tools.image("--help").stdout.splitlines()
             if line.startswith("  ")]
    assert verbs == ["create", "info", "check", "convert", "debian", "resize", "rebase"]
    manual = (pathlib.Path(__file__).parents[2] / "doc/trapeze.1").read_text()
    for verb in verbs:
        shown = tools.image(verb, "--help").stdout
        assert shown.startswith(f"usage: trapeze image {verb} ")
        for word in shown.split():
            if word.startswith("--"):
                assert f"Fl Fl {word[2:].rstrip(',')}" in manual, (verb, word)
