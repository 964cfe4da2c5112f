"""Programs that make code and run it: compilers, and compilers that work while the program runs.

What they print is compared with what the same files print natively.
"""

import pytest

from conftest import LONG
from workload_image import GUEST
from workload_run import run_guest, run_native

VCPUS = [1, 2] if LONG else [2]


def compare(start, tmp_path, name, words, vcpus):
    expected = run_native(tmp_path, name, words)
    text = "\n".join(expected)
    assert expected and "WRONG" not in text and "error" not in text, text
    assert run_guest(start, tmp_path, name, words, vcpus) == expected


@pytest.mark.every_engine
@pytest.mark.parametrize("vcpus", VCPUS)
def test_tcc(start, tmp_path, vcpus):
    compare(start, tmp_path, "tcc", ["compile", "tcc", "10" if LONG else "1"], vcpus)


@pytest.mark.skipif(not LONG, reason="takes minutes: TRAPEZE_LONG")
@pytest.mark.parametrize("vcpus", VCPUS)
def test_gcc(start, tmp_path, vcpus):
    compare(start, tmp_path, "gcc", ["compile", "gcc", "10"], vcpus)


@pytest.mark.parametrize("vcpus", VCPUS)
def test_luajit(start, tmp_path, vcpus):
    compare(start, tmp_path, "luajit", ["luajit", "10" if LONG else "1"], vcpus)


@pytest.mark.skipif(not LONG, reason="takes minutes: TRAPEZE_LONG")
@pytest.mark.parametrize("vcpus", VCPUS)
def test_node(start, tmp_path, vcpus):
    """Debian's node looks for parts of itself in /usr, so that it cannot run natively from a folder."""
    modes = ["--no-opt", "--always-sparkplug", "--opt"]
    lines = (GUEST / "js/expected").read_text().splitlines()
    expected = [line for mode in modes for line in [f"== {mode}", *lines]]
    assert run_guest(start, tmp_path, "node", ["node", *modes], vcpus) == expected
