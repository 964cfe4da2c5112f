"""How a run ends: the exit status, what stderr says, what --stats writes."""

import json
import time

import pytest

pytestmark = pytest.mark.every_engine


@pytest.mark.parametrize("key, options, status, words", [
    ("Q", [], 0, ""),
    ("R", ["--exit-on-reboot"], 3, ""),
    ("C", [], 2, "guest crashed"),
    ("D", [], 2, "guest crashed"),
    ("S", ["--timeout", "1.5"], 4, "stopped after 1.5 s (--timeout)"),
    ("X", [], 0x10 << 1 | 1, ""),
])
def test_status(start, echo, key, options, status, words):
    m = start("--kernel", echo, *options)
    m.expect("ready")
    m.send(key)
    assert m.wait() == status
    errors = m.errors()
    assert words in errors
    assert bool(errors) == bool(words), errors


def test_crash_shows_registers(start, echo):
    m = start("--kernel", echo)
    m.expect("ready")
    m.send("C")
    assert m.wait() == 2
    errors = m.errors().lower()
    for word in ["rip", "rsp", "cr0", "cr3"]:
        assert word in errors


def test_reboot_starts_again(start, echo):
    m = start("--kernel", echo)
    for _ in range(3):
        m.expect("ready")
        m.send("R")
    m.expect("ready")
    m.send("Q")
    assert m.wait() == 0


def test_timeout_is_kept(start, echo):
    before = time.monotonic()
    m = start("--kernel", echo, "--timeout", "1")
    assert m.wait() == 4
    assert 0.9 < time.monotonic() - before < 5


def test_stats(start, engine, echo, tmp_path):
    path = tmp_path / "stats"
    path.write_text("old")
    m = start("--kernel", echo, "--stats", str(path), "--vcpus", "2", "--memory", "64M")
    m.expect("ready")
    m.send("R")
    m.expect("ready")
    m.send("Q")
    assert m.wait() == 0
    stats = json.loads(path.read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["stats"]
    assert stats["engine"] == engine and stats["vcpus"] == 2
    assert stats["memory_bytes"] == 64 << 20
    assert stats["status"] == 0 and stats["outcome"] and stats["reboots"] == 1
    assert stats["instructions"] > 100 and stats["exits"]["pio"] > 10
    assert 0 < stats["guest_resident_bytes"] < 16 << 20
    assert 0 < stats["host_resident_bytes"] < 64 << 20
    assert stats["wall_seconds"] > 0 and stats["first_user_seconds"] is None


def test_stats_of_a_crash(start, echo, tmp_path):
    path = tmp_path / "stats"
    m = start("--kernel", echo, "--stats", str(path))
    m.expect("ready")
    m.send("C")
    assert m.wait() == 2
    stats = json.loads(path.read_text())
    assert stats["status"] == 2 and stats["reason"]
