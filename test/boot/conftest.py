"""Fixtures of the tests that run the trapeze command: where it is, on which engines, what it can boot.

TRAPEZE_ENGINES names engines, with commas between. The first runs every test. The others, which
would tell little more at the price of the same time, run those marked every_engine; with
TRAPEZE_LONG=1 they run everything, too.
"""

import os
import pathlib
import subprocess
import sys

import pytest

import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "script"))  # guest_image
TRAPEZE = os.environ.get("TRAPEZE", str(ROOT / "build/src/cli/trapeze"))
LONG = bool(os.environ.get("TRAPEZE_LONG"))
SOAK_SECONDS = int(os.environ.get("TRAPEZE_SOAK_SECONDS", 0))
# Where TRAPEZE_ENGINES does not say it: those of them that there are, and kvm where it is the fastest.
ENGINES = ["bt", "interp"]


def offered_engines():
    if not os.access(TRAPEZE, os.X_OK):
        raise pytest.UsageError(f"{TRAPEZE}: build it first")
    table = subprocess.run([TRAPEZE, "engines"], check=True, capture_output=True, text=True).stdout
    return [line.split()[0] for line in table.splitlines()]


def chosen_engines():
    offered = offered_engines()
    chosen = os.environ.get("TRAPEZE_ENGINES", "").replace(",", " ").split()
    for name in chosen:
        if name not in offered:
            raise pytest.UsageError(f"TRAPEZE_ENGINES: no engine {name}, only {', '.join(offered)}")
    return chosen or [name for name in offered if name in ENGINES or name == offered[0]]


def pytest_configure(config):
    config.addinivalue_line("markers", "every_engine: runs on each of TRAPEZE_ENGINES")
    config.engines = chosen_engines()


def pytest_generate_tests(metafunc):
    """Whatever boots does so on every engine, until pytest_collection_modifyitems thins it out."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", metafunc.config.engines)


def pytest_collection_modifyitems(config, items):
    def is_wanted(item):
        engine = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
        return LONG or engine in (None, config.engines[0]) or item.get_closest_marker("every_engine")

    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = filter(is_wanted, items)


@pytest.fixture(scope="session")
def trapeze():
    """Path of the command."""
    return TRAPEZE


@pytest.fixture(scope="session")
def echo(tmp_path_factory):
    """The guest of echo.S, which does what the keys sent to it say."""
    out = tmp_path_factory.mktemp("guest") / "echo.elf"
    subprocess.run(
        ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000",
         "-Wl,-N,--build-id=none,-z,noexecstack,--no-warn-rwx-segments", "-o", out,
         pathlib.Path(__file__).with_name("echo.S")],
        check=True)
    return str(out)


@pytest.fixture(scope="session")
def peer_program(tmp_path_factory):
    """The guest's end of connections that busybox has no tool for."""
    out = tmp_path_factory.mktemp("peer") / "peer"
    subprocess.run(["gcc", "-O2", "-static", "-o", out, pathlib.Path(__file__).with_name("peer.c")],
                   check=True)
    return out


@pytest.fixture
def start(trapeze, engine):
    """start(ARGUMENT...) runs `trapeze run` on the engine; what still runs at the end is killed."""
    machines = []

    def start_machine(*args, **how):
        machines.append(machine.Machine([trapeze, "run", "--engine", engine, *args],
                                        **how))
        return machines[-1]

    yield start_machine
    for m in machines:
        m.close()


@pytest.fixture(scope="session")
def debian(trapeze):
    """Path of a disk with a whole Debian, which script/image keeps in the cache; the key for ssh is
    beside it."""
    done = subprocess.run([ROOT / "script/image", "debian"], capture_output=True, text=True,
                          env={**os.environ, "TRAPEZE": trapeze})
    if done.returncode:
        pytest.skip(f"no Debian disk can be made here: {done.stderr.strip().splitlines()[-1]}")
    return pathlib.Path(done.stdout.strip())


@pytest.fixture
def disk(trapeze, debian, tmp_path):
    """An image on top of it, which is sound when the test is over. Before `start` among a test's
    fixtures, so that no machine has it any more."""
    path = tmp_path / "disk.qcow2"
    subprocess.run([trapeze, "image", "create", "--backing", debian, path], check=True,
                   capture_output=True)
    yield path
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


def image(name):
    """Path of what script/image makes, or a skip that says why there is none."""
    done = subprocess.run([ROOT / "script/image", name], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no {name} on this host: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()
