"""What we write: random requests against a flat file, judged by QEMU's tools and our checker."""

import pytest

from conftest import pattern

MIB = 1024 * 1024
SIZE = 8 * MIB + 512 * 3
COUNT = 1500


def fight(tools, image="image", seeds=(1, 2), threads=False):
    """Random requests; the oracle is QEMU's view of the image, and the judge afterwards."""
    tools.qemu("convert", "-O", "raw", image, "oracle")
    for seed in seeds:
        tools.drive("model", image, "oracle", seed, COUNT, *(["threads"] if threads else []))
        tools.check(image)
        tools.same("oracle", image)


def make_source(tools, size=SIZE):
    (tools.folder / "source.raw").write_bytes(pattern(size))


@pytest.mark.parametrize("options", [
    "", "--version=2", "--cluster-size=512B", "--cluster-size=4K", "--cluster-size=2M",
    *[f"--cluster-size=1K --refcount-bits={bits}" for bits in (1, 2, 4, 8, 32, 64)],
    "--lazy-refcounts"])
def test_ours(tools, options):
    tools.image("create", *options.split(), "image", f"{SIZE}B")
    tools.check("image")
    fight(tools)


@pytest.mark.parametrize("options", [
    "compat=0.10,cluster_size=4k", "cluster_size=64k,lazy_refcounts=on", "preallocation=metadata",
    "preallocation=full", "preallocation=metadata,compat=0.10,cluster_size=1k"])
def test_theirs(tools, options):
    tools.qemu("create", "-q", "-f", "qcow2", "-o", options, "image", SIZE)
    fight(tools)


def test_threads(tools):
    tools.image("create", "image", f"{SIZE}B")
    fight(tools, threads=True)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cluster", ["1K", "64K"])
@pytest.mark.parametrize("backing", [SIZE - MIB, SIZE, SIZE + MIB])
def test_over_backing(tools, version, cluster, backing):
    make_source(tools, backing // 512 * 512)
    tools.image("create", f"--version={version}", f"--cluster-size={cluster}", "-b", "source.raw",
                "image", f"{SIZE}B")
    fight(tools)


@pytest.mark.parametrize("cluster", ["512", "4k", "64k", "2M"])
@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_over_compressed(tools, cluster, kind):
    make_source(tools)
    tools.qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
               f"cluster_size={cluster},compression_type={kind}", "source.raw", "image")
    fight(tools)


@pytest.mark.parametrize("cluster", ["512", "4k", "64k"])
def test_over_snapshots(tools, cluster):
    """Internal snapshots keep what they have."""
    make_source(tools)
    tools.qemu("convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={cluster}", "source.raw",
               "image")
    tools.qemu("snapshot", "-c", "first", "image")
    fight(tools, seeds=(1,))
    tools.qemu("snapshot", "-c", "second", "image")
    tools.run("cp", "oracle", "second.raw")
    fight(tools, seeds=(2,))
    for name, expected in ("first", "source.raw"), ("second", "second.raw"):
        tools.qemu("convert", "-l", name, "-O", "raw", "image", "snapshot.raw")
        tools.run("cmp", "snapshot.raw", expected)
        tools.qemu("snapshot", "-d", name, "image")
        tools.check("image")


def test_bitmaps_are_dropped(tools):
    """A writer that keeps no bitmaps up has to say so; the clusters are then leaks."""
    tools.image("create", "image", "8M")
    tools.qemu("bitmap", "--add", "image", "changes")
    tools.qemu("convert", "-O", "raw", "image", "oracle")
    tools.drive("model", "image", "oracle", 1, 100)
    tools.check("image", leaks=True)
    tools.image("check", "--repair", "image")
    tools.check("image")
    tools.same("oracle", "image")


def test_raw(tools):
    (tools.folder / "image").write_bytes(pattern(SIZE))
    tools.run("cp", "image", "oracle")
    for seed in (1, 2):
        tools.drive("model", "image", "oracle", seed, COUNT)
        tools.run("cmp", "oracle", "image")


def test_space_comes_back(tools):
    """Discarded clusters are used anew, and the host has their space."""
    tools.image("create", "image", "64M")
    tools.drive("fill", "image", 1, 0, 32 * MIB)
    full = (tools.folder / "image").stat()
    tools.image("resize", "--shrink", "image", "1M")
    tools.image("resize", "image", "64M")
    assert (tools.folder / "image").stat().st_size <= full.st_size + MIB
    tools.drive("fill", "image", 2, 0, 32 * MIB)
    tools.check("image")
    assert (tools.folder / "image").stat().st_size <= full.st_size + MIB
