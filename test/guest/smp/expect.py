"""How run.py is to run the guests of this folder; see GUESTS there."""

GUESTS = {
    "bringup": {"runs": [{"vcpus": n} for n in (2, 4, 16)]},
    "crossmod": {"vcpus": 2},
    "init": {"vcpus": 2, "qemu_skip": "QEMU 7.2 crashes when a running CPU gets an INIT"},
    "ipi": {"runs": [{"vcpus": n} for n in (2, 4)]},
    "litmus": {"vcpus": 4},
    "locked": {"runs": [{"vcpus": n} for n in (2, 4)]},
    "shootdown": {"vcpus": 4},
    "tscsync": {"vcpus": 4},
}
