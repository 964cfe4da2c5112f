"""How run.py is to run guests on the engine kvm; see GUESTS there.

On virtualization hardware nothing here but "trapeze" counts. A host whose KVM emulates ring 0 (`trapeze
info` says so) is no reference for what its emulator does otherwise than a CPU.

    trapeze       further options
    fails         {check: why the emulator fails it}
    skip          why the guest says nothing there
"""

GP = "what raises #GP in ring 3 is emulated, and gives #UD"
ORDER = "takes a fault of delivery for a double fault"
CACHED = "stops at INVLPG, not behind it"
PIECES = "writes one page before the other faults"
WINDOW = "interrupts get in only where the guest leaves the emulator, not at each instruction"
FEATURES = "CPUID shows the host's features, which the emulator has not"
CHECKS = "the emulator checks few of these"
TIMED = "it holds clocks against each other, and the emulator takes microseconds an instruction"
LONG = "too much code in ring 0 for its time"

KVM = {
    "outcome": {"trapeze": ["--irqchip", "own"]},  # only our own chips tell that nothing will wake a CPU
    "atomic_faults": {"fails": {"CPL 3 loads from a supervisor's GDT": GP, "not when it is set already": GP}},
    "canonical": {"skip": LONG},
    "chaos": {"skip": LONG},
    "crossmod": {"skip": LONG},
    "debug": {"skip": CHECKS},
    "events": {"skip": WINDOW},
    "exceptions": {"fails": {
        "last canonical byte crossed raises #GP(0)": CHECKS,
        "a byte never does": GP,
        "nothing without AC": GP,
        "nothing without CR0.AM": CHECKS,
        "INT to a gate of DPL 0 at CPL 3 raises #GP(IDT)": GP,
        "and to DPL 3 does not": GP,
        "INT3 checks DPL, too": CHECKS,
        "#UD through a gate not present raises #NP(IDT, EXT)": ORDER,
        "a non-canonical RSP0 raises #SS(EXT)": ORDER,
    }},
    "flood": {"skip": LONG},
    "fpu_errors": {"skip": FEATURES},
    "fpu_state": {"skip": FEATURES},
    "hpet": {"skip": WINDOW},
    "ioapic": {"skip": WINDOW},
    "ipi": {"skip": LONG},
    "lapic": {"skip": WINDOW},
    "litmus": {"skip": LONG},
    "loops": {"skip": LONG},
    "locked": {"skip": LONG},
    "paging32": {"skip": CHECKS},
    "paging_cached": {"fails": {"CPL 3 does not mind": GP, "faults behind INVLPG": CACHED}},
    "paging_rights": {"skip": CHECKS},
    "paging_tables": {"fails": {"the first is as it was": PIECES}},
    "pic": {"skip": WINDOW},
    "pit": {"skip": TIMED},
    "pokes": {"skip": LONG},
    "segments": {"skip": CHECKS},
    "shootdown": {"skip": LONG},
    "syscall": {"skip": CHECKS},
    "system": {"skip": CHECKS},
    "tasks": {"skip": CHECKS},
    "tscsync": {"skip": LONG},
    "v86": {"skip": CHECKS},
    "window": {"skip": WINDOW},
    "x2apic": {"skip": WINDOW},
}
