"""A kernel that rewrites its code while it runs on four vCPUs: modules, static keys, tracers, probes.

TRAPEZE_SOAK_SECONDS says for how long.
"""

import re

from conftest import LONG, SOAK_SECONDS
from workload_image import patchable_kernel
from workload_run import run_guest, run_native

DURATION = SOAK_SECONDS or (240 if LONG else 10)
# How much of the kernel a step changes.
SCOPE = "all" if LONG or SOAK_SECONDS else "some"


def test_patching(start, tmp_path):
    kernel, _ = patchable_kernel()
    lines = run_guest(start, tmp_path, "patch", ["patch", str(DURATION), SCOPE], 4,
                      seconds=DURATION + 600, kernel=str(kernel))
    text = "\n".join(lines)
    print(text)
    expected, = run_native(tmp_path, "patch", ["load"])
    assert "failures: 0" in lines and f"load: {expected}" in lines, text
    assert len(re.findall(r"^CPU \d: [1-9]\d* rounds", text, re.M)) == 3, text
    assert re.search(r"^patched: [1-9]\d* rounds", text, re.M), text
