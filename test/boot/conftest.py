"""Fixtures of the tests that run the trapeze command: where it is, what it can boot."""

import os
import pathlib
import subprocess

import pytest

import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def trapeze():
    """Path of the command."""
    path = os.environ.get("TRAPEZE", ROOT / "build/src/cli/trapeze")
    assert os.access(path, os.X_OK), f"{path}: build it first"
    return str(path)


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


@pytest.fixture
def start(trapeze):
    """start(ARGUMENT...) runs `trapeze run`; whatever still runs at the end is killed."""
    machines = []

    def start_machine(*args, **how):
        machines.append(machine.Machine([trapeze, "run", *args], **how))
        return machines[-1]

    yield start_machine
    for m in machines:
        m.close()


def image(name):
    """Path of what script/image makes, or a skip that says why there is none."""
    done = subprocess.run([ROOT / "script/image", name], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no {name} on this host: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()
