#!/usr/bin/env python3
"""Runs tiny guests on Trapeze, or on QEMU to see whether a guest itself is right.

A guest passes when it ends with the status that it should and prints no "not ok".
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile

from device import expect as device
from kvm import expect as kvm
from smp import expect as smp

PASS = 33  # (EXIT_PASS << 1) | 1, see runtime/layout.h
TIMEOUT_S = 60
SKIPPED = 77  # as meson has it

# These hold clocks against each other, which a host that is busy elsewhere can spoil. What is wrong stays
# wrong when tried again.
TIMED = {"hpet", "lapic", "pit", "pmtimer", "rtc", "x2apic"}
TRIES = 4

# What differs from the default: one vCPU, 128 MiB, status PASS, no further options.
#   vcpus, memory, status    of the machine
#   trapeze, qemu            further options of each
#   runs                     instead of one run: a list of such tables
#   qemu_status              where QEMU's end differs from Trapeze's
#   qemu_fails               {check: why QEMU is not the reference there}
#   qemu_serial              where QEMU's COM1 leads, if it has one
#   errors                   words on Trapeze's stderr
#   disk                     bytes of an empty disk, whose path takes the place of {disk} in options
#   doorbells                what the guest rings, which takes no exit on KVM, and one each elsewhere
#   qemu_skip                why the guest cannot run under QEMU
NO_INT1 = "TCG takes opcode 0xf1 for undefined"
NO_XM = "TCG raises no SIMD exceptions"
NO_AC = "TCG checks no alignment"
IDT_SCALE = "TCG multiplies the vector by 16 in a long-mode error code; SDM 3A 6.13: index 15:3"
NO_EXT = "TCG never sets EXT"
CANONICAL = "TCG looks at the first byte's address, and for the segment not at the base register"
NO_P = "TCG leaves P out of the error code with RSVD; SDM 3A 4.7"
NO_LIMITS = "TCG checks neither limits nor types at an access"
NO_GD = "TCG knows no general detect"

GUESTS = {
    "paging32": {"qemu_fails": {
        "4 MiB PDE with bit 21": NO_P,
        "PDPTEs stay as they were loaded": "TCG reads them at every walk",
        "a reserved bit in a PDPTE raises #GP": "TCG reads them at every walk",
        "2 MiB PDE with bit 13": NO_P,
        "PTE with bit 62": NO_P,
        "NX without EFER.NXE": NO_P,
    }},
    "paging57": {"qemu_fails": {
        "not 58": "TCG takes any LSTAR",
        "PML5E with PS": NO_P,
    }},
    "canonical": {"qemu_skip": "TCG raises another exception for some of these"},
    "v86": {"qemu_fails": {
        "beyond 64 KiB raises #GP(0)": NO_LIMITS,
        "a word across 64 KiB raises #GP(0)": NO_LIMITS,
    }},
    "real": {"qemu_fails": {
        "a word across 64 KiB raises #GP": NO_LIMITS,
        "at the instruction": NO_LIMITS,
        "an offset beyond 64 KiB raises #GP": NO_LIMITS,
        "the same with ES": NO_LIMITS,
    }},
    "fpu_state": {"qemu_fails": {
        "FXRSTOR of a reserved MXCSR bit raises #GP": "TCG takes any MXCSR",
        "LDMXCSR of one raises #GP": "TCG takes any MXCSR",
        "XRSTOR of a reserved MXCSR bit raises #GP": "TCG takes any MXCSR",
        "XSAVE with TS raises #NM": "TCG does not look at CR0.TS there",
        "XRSTOR with TS raises #NM": "TCG does not look at CR0.TS there",
    }},
    "triple": {"status": 2, "qemu_status": 0},
    "segments": {"qemu_fails": {
        "behind the limit": NO_LIMITS,
        "dword that crosses it": NO_LIMITS,
        "dword that wraps": NO_LIMITS,
        "pages: behind": NO_LIMITS,
        "expand-down: at the limit": NO_LIMITS,
        "16-bit expand-down: at 64 KiB": NO_LIMITS,
        "16-bit expand-down: dword across": NO_LIMITS,
        "behind the limit of SS": NO_LIMITS,
        "PUSH below the limit of SS": NO_LIMITS,
        "read-only data: write": NO_LIMITS,
        "readable code: write": NO_LIMITS,
        "write through CS": NO_LIMITS,
        "and use of it": NO_LIMITS,
        "instruction across the limit of CS": NO_LIMITS,
        "at its start": NO_LIMITS,
    }},
    "compatibility": {"qemu_fails": {
        "behind the limit": NO_LIMITS,
        "a null segment": NO_LIMITS,
        "write to read-only data": NO_LIMITS,
        "a jump below 0 wraps to 64 KiB": NO_LIMITS,
    }},
    "events": {"qemu_fails": {
        "an implicit one, whatever AC": "TCG lets AC help descriptor loads",
    }},
    "fpu_errors": {"qemu_skip": "TCG raises no #XM, and #MF only at FWAIT"},
    "system": {"qemu_skip": "TCG checks few values of MSRs, control and table registers"},
    "syscall": {"qemu_fails": {
        "IRET to a non-canonical RIP raises #GP(0)": CANONICAL,
        "INT from 32-bit code without DPL": IDT_SCALE,
    }},
    "debug": {"qemu_fails": {
        "so is RF": "TCG pushes RF only for instruction breakpoints",
        "at": "TCG reports the breakpoint of IN at IN",
        "general detect": NO_GD,
        "once: GD is cleared": NO_GD,
        "DR7 after it": NO_GD,
    }},
    "paging_tables": {"qemu_fails": {
        "PTE beyond MAXPHYADDR": NO_P,
        "PDE beyond MAXPHYADDR": NO_P,
        "2 MiB PDE with bit 13": NO_P,
        "1 GiB PDPTE with bit 13": NO_P,
        "PML4E with PS": NO_P,
        "NX without EFER.NXE": NO_P,
    }},
    "exceptions": {"qemu_fails": {
        "INT1 raises #DB": NO_INT1,
        "INT1 is a trap": NO_INT1,
        "INT1 does not": NO_INT1,
        "LOCK MOV raises #UD": "TCG ignores LOCK there",
        "and with RPL 3 raises #GP(0)": "TCG does not compare RPL with CPL",
        "RBP address non-canonical raises #SS(0)": CANONICAL,
        "last canonical byte crossed raises #GP(0)": CANONICAL,
        "non-canonical stack raises #SS(0)": CANONICAL,
        "unmapped write raises #PF(W)": "TCG reads first in a locked operation",
        "unmasked SSE error raises #XM": NO_XM,
        "or #UD without CR4.OSXMMEXCPT": NO_XM,
        "misaligned dword at CPL 3 with AC raises #AC(0)": NO_AC,
        "INT through a gate not present raises #NP(IDT)": IDT_SCALE,
        "INT through no gate raises #GP(IDT)": IDT_SCALE,
        "task gates do not exist in long mode": IDT_SCALE,
        "INT to a gate of DPL 0 at CPL 3 raises #GP(IDT)": IDT_SCALE,
        "INT3 checks DPL, too": IDT_SCALE,
        "INT beyond the IDT raises #GP(IDT)": IDT_SCALE,
        "#UD through a gate not present raises #NP(IDT, EXT)": NO_EXT,
        "a non-canonical RSP0 raises #SS(EXT)": NO_EXT,
    }},
}


def trapeze_command(options, guest, image):
    return [options.trapeze, "run", "--kernel", image, "--timeout", str(TIMEOUT_S),
            "--vcpus", str(guest.get("vcpus", 1)), "--memory", f"{guest.get('memory', 128)}M",
            "--engine", options.engine, *(["--check", "interp"] if options.check else []),
            *(["--irqchip", options.irqchip] if options.irqchip else []), *guest.get("trapeze", [])]


def qemu_command(guest, image):
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "pc", "-kernel", image,
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", "stdio",
            "-serial", guest.get("qemu_serial", "none"), "-monitor", "none", "-display", "none", "-no-reboot", "-m",
            str(guest.get("memory", 128)), "-smp", str(guest.get("vcpus", 1))] + guest.get("qemu", [])


def run(command):
    """Exit status (None: timeout) and output."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=errors)
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            status = None
        errors.seek(0)
        return status, output.decode(errors="replace"), errors.read().decode(errors="replace")


def failed_checks(output):
    lines = (line.strip() for line in output.splitlines())
    return [line.split(" - ", 1)[-1].strip() for line in lines if line.startswith("not ok")]


def judge(options, guest, status, output):
    """A list of complaints, empty when the guest passed."""
    failed = failed_checks(output)
    expected = guest.get("status", PASS)
    if options.qemu:
        known = guest.get("qemu_fails", {})
        expected = guest.get("qemu_status", expected)
        # A guest that only fails known checks ends with its own idea of failure.
        if failed and all(name in known for name in failed):
            return []
    if failed and all(name in guest.get("kvm_fails", {}) for name in failed):
        return []
    complaints = [f"failed: {name}" for name in failed]
    if status is None:
        complaints.append(f"still running after {TIMEOUT_S} s")
    elif status != expected:
        complaints.append(f"status {status}, expected {expected}")
    return complaints


@contextlib.contextmanager
def with_files(guest):
    """The guest's table with the files that it asks for, and a path for statistics."""
    with tempfile.TemporaryDirectory() as folder:
        disk, stats = os.path.join(folder, "disk"), os.path.join(folder, "stats")
        if "disk" in guest:
            with open(disk, "wb") as file:
                file.truncate(guest["disk"])
        options = {key: [word.replace("{disk}", disk) for word in guest.get(key, [])] for key in ("trapeze", "qemu")}
        if "doorbells" in guest:
            options["trapeze"] += ["--stats", stats]
        yield {**guest, **options}, stats


def judge_shortcuts(options, guest, stats):
    """Whether doorbells and messages went through the host's kernel where they can, and nowhere else."""
    with open(stats, encoding="ascii") as file:
        found = json.load(file)
    kvm_runs = options.engine == "kvm"
    complaints = []
    if found["kernel_doorbells"] != (guest["doorbells"] if kvm_runs else 0):
        complaints.append(f"{found['kernel_doorbells']} doorbells went through the host's kernel")
    if (found["kernel_messages"] > 0) != (kvm_runs and options.irqchip != "own"):
        complaints.append(f"{found['kernel_messages']} messages went through the host's kernel")
    return complaints


def guest_name(image):
    return os.path.basename(image).split(".")[0]


def run_guest_often(options, image):
    """As often as it takes to pass, within its number of tries."""
    tries = TRIES if guest_name(image) in TIMED else 1
    return any(run_guest(options, image) for _ in range(tries))


def kvm_state(options):
    """Why the engine kvm cannot be tested, or "", and whether its host emulates ring 0."""
    info = subprocess.run([options.trapeze, "info"], check=True, capture_output=True, text=True).stdout
    lines = {line[:28].strip(): line[28:].strip() for line in info.splitlines()}
    usable = lines.get("KVM", "") == "can be used"
    return "" if usable else lines.get("KVM", "no KVM"), "emulated" in lines.get("ring 0", "")


def on_kvm(options, name, guest):
    """The guest's table with what the engine kvm adds."""
    row = kvm.KVM.get(name, {}) if options.engine == "kvm" else {}
    guest = {**guest, "trapeze": guest.get("trapeze", []) + row.get("trapeze", [])}
    if options.emulated:
        guest["kvm_fails"] = row.get("fails", {})
    return guest


def kvm_skip(options):
    """Why none of the images is to be run, or ""."""
    if options.engine != "kvm" or options.qemu:
        return ""
    why, options.emulated = kvm_state(options)
    rows = [kvm.KVM.get(guest_name(image), {}) for image in options.image]
    if not why and options.emulated and all("skip" in row for row in rows):
        why = "KVM emulates ring 0 here: " + rows[0]["skip"]
    return why


def run_guest(options, image):
    name = guest_name(image)
    table = {**device.GUESTS, **smp.GUESTS, **GUESTS}.get(name, {})
    passed = True
    for guest in table.get("runs", [table]):
        guest = on_kvm(options, name, guest)
        if options.qemu and "qemu_skip" in guest:
            print(f"{name}: skipped: {guest['qemu_skip']}")
            continue
        with with_files(guest) as (guest, stats):
            command = qemu_command(guest, image) if options.qemu else \
                trapeze_command(options, guest, image)
            status, output, errors = run(command)
            complaints = judge(options, guest, status, output)
            if not options.qemu and not complaints and "doorbells" in guest:
                complaints += judge_shortcuts(options, guest, stats)
        if not options.qemu and guest.get("errors", "") not in errors:
            complaints.append(f"stderr does not say '{guest['errors']}'")
        if complaints or options.verbose:
            sys.stdout.write(output)
            sys.stdout.write(errors)
        for complaint in complaints:
            print(f"{name}: {complaint}")
        passed = passed and not complaints
    print(f"{name}: {'passed' if passed else 'FAILED'}")
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trapeze", default="trapeze", help="the program under test")
    parser.add_argument("--engine", default="interp")
    parser.add_argument("--irqchip", help="of the engine kvm")
    parser.add_argument("--check", action="store_true", help="in lockstep with the interpreter")
    parser.add_argument("--qemu", action="store_true", help="use QEMU instead")
    parser.add_argument("-v", "--verbose", action="store_true", help="print output in any case")
    parser.add_argument("image", nargs="+")
    options = parser.parse_args()
    options.emulated = False
    why = kvm_skip(options)
    if why:
        print(f"skipped: {why}")
        return SKIPPED
    results = [run_guest_often(options, image) for image in options.image]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
