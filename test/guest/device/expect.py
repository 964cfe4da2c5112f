"""How run.py is to run the guests of this folder; see GUESTS there."""

import os

MODULE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "module.txt")
CMDLINE = 'one two=2 "three"'
TESTDEV = {"trapeze": ["--testdev"], "qemu": ["-device", "pc-testdev"]}

NO_SEND_ERROR = "QEMU sends illegal vectors"
NO_DISABLE = "QEMU's APIC is disabled in name only"
NO_GATE = "QEMU's PIT ignores the gate in these modes"

OUTCOMES = [
    # word, Trapeze's status, options, words on stderr; QEMU ends with 0 at any reset
    ("i8042", 3, ["--exit-on-reboot"], ""),
    ("port92", 3, ["--exit-on-reboot"], ""),
    ("cf9", 3, ["--exit-on-reboot"], ""),
    ("s5", 0, [], ""),
    ("triple", 2, [], "triple fault"),
    ("halt", 2, [], "every vCPU is halted"),
    ("spin", 4, ["--timeout", "1"], "stopped after 1 s"),
]


def outcome(word, status, options, errors):
    run = {"status": status, "trapeze": ["--append", word] + options, "errors": errors,
           "qemu": ["-append", word], "qemu_status": 0}
    if word in ("halt", "spin"):
        run["qemu_skip"] = "QEMU would not end"
    return run


GUESTS = {
    "acpi": {"status": 0},
    "flood": {"qemu_skip": "its timers have no shortest period and starve the guest"},
    "fwcfg": {"vcpus": 2},
    "highmem": {"memory": 6144, "qemu_fails": {
        "nothing lies behind": "QEMU reads zeros where nothing is",
    }},
    "hpet": {"qemu_fails": {"once": "QEMU's 32-bit comparators sometimes match twice"}},
    "ioapic": TESTDEV,
    "lapic": {"qemu_fails": {
        "CR8 has four bits": "TCG ignores the others",
        "sending an illegal vector is an error": NO_SEND_ERROR,
        "with an interrupt": NO_SEND_ERROR,
        "software disabling masks the LVT": NO_DISABLE,
        "and keeps it masked": NO_DISABLE,
        "which enabling does not undo": NO_DISABLE,
        "nor bring back": NO_DISABLE,
    }},
    "multiboot": {
        "trapeze": ["--append", CMDLINE, "--module", f"{MODULE} first one", "--module",
                    f"{MODULE} second two"],
        "qemu": ["-append", CMDLINE, "-initrd", f"{MODULE} first one,{MODULE} second two"],
    },
    "nvme_msix": {
        "disk": 64 * 1024,
        "doorbells": 0,  # they carry values
        "trapeze": ["--disk", "{disk},if=nvme"],
        "qemu": ["-drive", "file={disk},if=none,id=d,format=raw", "-device", "nvme,drive=d,serial=1"],
    },
    "outcome": {"runs": [outcome(*row) for row in OUTCOMES]},
    "pic": TESTDEV,
    "pit": {"qemu_fails": {
        "without its gate it stands": NO_GATE,
        "then low": NO_GATE,
        "and can be triggered again": NO_GATE,
        "a new count is not yet loaded": "QEMU has no such status",
        "a decimal count reads back": "QEMU counts in binary",
    }},
    "pmtimer": {"qemu_fails": {
        "words are its parts": "QEMU gives its low word at either address",
    }},
    "pokes": {"trapeze": ["--testdev"], "qemu_skip": "chips of its board move others' ports"},
    "testdev": TESTDEV,
    "uart": {"qemu_serial": "null", "qemu_fails": {
        "a change leaves a mark": "QEMU marks no changes in loopback",
        "the trigger level": "QEMU keeps on saying timeout",
        "a modem line": "QEMU marks no changes in loopback",
    }},
    "virtio_msix": {
        "disk": 64 * 1024,
        "doorbells": 60,  # one for each request; two more reach a device that was reset
        "trapeze": ["--rng", "--disk", "{disk}"],
        "qemu": ["-device", "virtio-rng-pci,disable-legacy=on,rng=r,vectors=2", "-object",
                 "rng-random,filename=/dev/urandom,id=r", "-drive", "file={disk},if=none,id=d,format=raw",
                 "-device", "virtio-blk-pci,disable-legacy=on,drive=d"],
    },
    "x2apic": {"qemu_skip": "TCG has no x2APIC before QEMU 9"},
}
