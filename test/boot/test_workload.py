"""Programs in the guest, whose results the host's own CPU, or the programs themselves, can judge.

A script that prints the same on every machine runs in the guest and natively, from the same files.
By default a slice; with TRAPEZE_LONG=1 the sweep, and everything with two vCPUs, too. With
TRAPEZE_SOAK_SECONDS, stress-ng also goes through its long list for that time.
"""

import random
import re
import subprocess

import pytest

from conftest import LONG, SOAK_SECONDS
from guest_image import native_command
from workload_image import GUEST, workload_image
from workload_run import run_guest, run_native

VCPUS = [1, 2] if LONG else [1]
# Key name to options of `openssl genpkey`; "-peer" is the other side of a key exchange.
KEYS = {"rsa": ["-algorithm", "RSA"], "ed25519": ["-algorithm", "ed25519"],
        "ed448": ["-algorithm", "ed448"]}
for name in ["x25519", "x448"]:
    KEYS[name] = KEYS[name + "-peer"] = ["-algorithm", name]
for name, curve in [("p256", "P-256"), ("p384", "P-384"), ("p521", "P-521"),
                    ("k256", "secp256k1")]:
    KEYS[name] = KEYS[name + "-peer"] = ["-algorithm", "EC", "-pkeyopt",
                                         "ec_paramgen_curve:" + curve]


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A folder of private keys, made by the host."""
    root, _ = workload_image("stress")
    folder = tmp_path_factory.mktemp("keys")
    for name, options in KEYS.items():
        subprocess.run([*native_command(root, "openssl"), "genpkey", *options,
                        "-out", folder / name], check=True, capture_output=True)
    return folder


@pytest.mark.every_engine
@pytest.mark.parametrize("vcpus", VCPUS)
def test_shell_tools(start, tmp_path, vcpus):
    words = ["shell", "5" if LONG else "1"]
    expected = run_native(tmp_path, "stress", words)
    assert run_guest(start, tmp_path, "stress", words, vcpus) == expected


@pytest.mark.parametrize("vcpus", VCPUS)
def test_crypto(start, tmp_path, keys, vcpus):
    masks = "all" if LONG else "default"
    expected = run_native(tmp_path, "stress", ["crypto", str(keys), masks])
    assert not [line for line in expected if "WRONG" in line]
    words = ["crypto", "/extra", masks]
    assert run_guest(start, tmp_path, "stress", words, vcpus, extra=keys) == expected


@pytest.mark.parametrize("vcpus", VCPUS)
def test_stress(start, tmp_path, vcpus):
    """stress-ng checks its own results; every job has to have run and to have passed."""
    jobs = "jobs-long" if LONG else "jobs-short"
    lines = run_guest(start, tmp_path, "stress", ["stress", jobs], vcpus)
    wanted = [line for line in (GUEST / jobs).read_text().splitlines()
              if line and not line.startswith("#")]
    text = "\n".join(lines)
    print(text)
    assert len(re.findall(r"^(?:ok|skip) --", text, re.M)) == len(wanted), text
    assert "FAIL" not in text, text


@pytest.mark.skipif(not SOAK_SECONDS, reason="takes as long as it is told: TRAPEZE_SOAK_SECONDS")
def test_sweep(start, tmp_path):
    """The long list from anywhere in it, over and over."""
    first = random.randint(1, len((GUEST / "jobs-long").read_text().splitlines()))
    words = ["stress", "jobs-long", str(SOAK_SECONDS), str(first)]
    text = "\n".join(run_guest(start, tmp_path, "stress", words, 4, seconds=SOAK_SECONDS + 600))
    print(f"from line {first}:\n{text}")
    assert re.search(r"^ok --", text, re.M) and "FAIL" not in text, text
