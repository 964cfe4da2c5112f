"""How run.py is to run the guests of this folder; see GUESTS there."""

NO_INVALIDATION = "TCG may miss a change to code that another CPU is just translating"

GUESTS = {
    "bringup": {"runs": [{"vcpus": n} for n in (2, 4, 16)]},
    "chaos": {"vcpus": 4, "trapeze": ["--testdev"],
              "qemu_skip": "chips of its board move others' ports"},
    "crossmod": {"vcpus": 2, "qemu_fails": {
        "a change to running code is seen in time": NO_INVALIDATION,
        "own changes are seen by the next jump": NO_INVALIDATION,
        "and back": NO_INVALIDATION,
    }},
    "init": {"vcpus": 2, "qemu_skip": "QEMU 7.2 crashes when a running CPU gets an INIT"},
    "ipi": {"runs": [{"vcpus": n, "qemu_fails": {
        "to the less busy": "QEMU looks at no priorities",
    }} for n in (2, 4)]},
    "litmus": {"vcpus": 4},
    "locked": {"runs": [{"vcpus": n} for n in (2, 4)]},
    "shootdown": {"vcpus": 4},
    "tscsync": {"vcpus": 4},
}
