"""Images that QEMU made, in the combinations of its options, are read byte for byte."""

import pytest

from conftest import pattern

SIZE = 3 * 1024 * 1024 + 51200  # no multiple of large clusters

CLUSTERS = ["512", "4k", "64k", "2M"]
OPTIONS = (
    [f"compat={compat},cluster_size={cluster}" for compat in ("0.10", "1.1") for cluster in CLUSTERS]
    + [f"refcount_bits={bits},cluster_size={cluster}" for bits in (1, 2, 4, 8, 16, 32, 64)
       for cluster in ("512", "64k")]
    + [f"preallocation={how}" for how in ("off", "metadata", "falloc", "full")]
    + [f"preallocation=metadata,cluster_size={cluster},compat=0.10" for cluster in ("1k", "2M")]
    + [f"lazy_refcounts=on,cluster_size={cluster}" for cluster in ("1k", "64k")])
COMPRESSED = [f"cluster_size={cluster},{kind}" for cluster in CLUSTERS + ["16k"]
              for kind in ("compat=0.10", "compression_type=zlib", "compression_type=zstd")]


def read_back(tools, image, expected):
    """Through our reader, with both kinds of asynchronous I/O where it is cheap to have both."""
    tools.image("convert", "-O", "raw", image, "ours.raw")
    assert (tools.folder / "ours.raw").read_bytes() == expected
    tools.image("check", image)


@pytest.fixture
def source(tools):
    data = pattern(SIZE)
    (tools.folder / "source.raw").write_bytes(data)
    return data


@pytest.mark.parametrize("options", OPTIONS)
def test_plain(tools, source, options):
    tools.qemu("convert", "-f", "raw", "-O", "qcow2", "-o", options, "source.raw", "image")
    read_back(tools, "image", source)


@pytest.mark.parametrize("options", COMPRESSED)
def test_compressed(tools, source, options):
    tools.qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "source.raw", "image")
    read_back(tools, "image", source)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("size", [SIZE - 1024 * 1024, SIZE, SIZE + 1024 * 1024])
@pytest.mark.parametrize("backing", ["raw", "qcow2", "compressed"])
def test_backing(tools, source, compat, size, backing):
    """A chain of three, whose disks are as long as each other, longer and shorter."""
    fmt = "raw" if backing == "raw" else "qcow2"
    if backing == "raw":
        (tools.folder / "base").write_bytes(source)
    else:
        tools.qemu("convert", *(["-c"] if backing == "compressed" else []), "-f", "raw", "-O",
                   "qcow2", "source.raw", "base")
    tools.qemu("create", "-q", "-f", "qcow2", "-o", f"compat={compat},cluster_size=4k", "-b",
               "base", "-F", fmt, "middle", size)
    tools.io("middle", "write -P 7 10000 100000", "write -P 8 1M 64k")
    tools.qemu("create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", "middle", "-F",
               "qcow2", "image", SIZE)
    tools.io("image", "write -P 9 500 1000", "write -z 1049000 20000", "discard 2M 128k")
    tools.qemu("convert", "-O", "raw", "image", "theirs.raw")
    read_back(tools, "image", (tools.folder / "theirs.raw").read_bytes())


def test_zero_clusters(tools, source):
    tools.qemu("convert", "-f", "raw", "-O", "qcow2", "source.raw", "base")
    tools.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "image")
    tools.io("image", "write -z 0 256k", "write -z -u 512k 1M", "write -P 3 1M 4k", "write 2M 64k",
             "write -z 2M 64k")
    tools.qemu("convert", "-O", "raw", "image", "theirs.raw")
    read_back(tools, "image", (tools.folder / "theirs.raw").read_bytes())


def test_snapshots_and_bitmaps(tools, source):
    tools.qemu("convert", "-f", "raw", "-O", "qcow2", "source.raw", "image")
    tools.qemu("snapshot", "-c", "one", "image")
    tools.qemu("bitmap", "--add", "image", "changes")
    tools.io("image", "write -P 5 100000 300000")
    tools.qemu("convert", "-O", "raw", "image", "theirs.raw")
    read_back(tools, "image", (tools.folder / "theirs.raw").read_bytes())


@pytest.mark.parametrize("size", [0, 512, 1024, 65536 + 512, 1 << 40])
def test_sizes(tools, size):
    tools.qemu("create", "-q", "-f", "qcow2", "image", size)
    if size <= 1 << 20:
        read_back(tools, "image", bytes(size))
    else:
        tools.image("check", "image")
        assert f'"size": {size},' in tools.image("info", "--json", "image").stdout
