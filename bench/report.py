"""The table of the suite, its means, and the floors."""

import collections
import math

from works import BOOT, FLOAT, GROUPS, INTEGER, MAKE, PROCESS, SYSTEM

WAYS = ["native", "trapeze", "tcg"]
ALL = "all rows"

Floor = collections.namedtuple("Floor", "what unit value wanted at_least")


def mean(values):
    """The geometric mean; None of nothing."""
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def ratio(a, b):
    return a / b if a and b else None


class Row:
    """The least time of each way, None if that was not measured."""

    def __init__(self, name, group, native, trapeze, tcg):
        self.name, self.group = name, group
        self.native, self.trapeze, self.tcg = native, trapeze, tcg
        self.by_tcg = ratio(tcg, trapeze)
        self.of_native = ratio(native, trapeze)

    def as_json(self):
        return {"work": self.name, "group": self.group, "native_seconds": self.native,
                "trapeze_seconds": self.trapeze, "tcg_seconds": self.tcg,
                "times_tcg": self.by_tcg, "of_native": self.of_native}


def group_means(rows):
    """(times TCG, fraction of native) by group, and of all rows."""
    groups = {g: [r for r in rows if r.group == g] for g in GROUPS}
    groups[ALL] = rows
    return {g: (mean(r.by_tcg for r in some), mean(r.of_native for r in some))
            for g, some in groups.items() if some}


def kvm_floors(rows):
    """What KVM has to reach on virtualization hardware."""
    boot = next((r for r in rows if r.name == BOOT), None)
    return [Floor("power-on to the first act of init", "s", boot and boot.trapeze, 0.125, False)]


def floors(rows, facts):
    """What the fast engine has to reach; a value of None was not measured."""
    means = collections.defaultdict(lambda: (None, None), group_means(rows))
    named = {r.name: r for r in rows}
    least = min((r.by_tcg for r in rows if r.by_tcg), default=None)
    boot, make = named.get(BOOT), named.get(MAKE)
    beyond = facts.get("beyond_ram_bytes")
    return [
        Floor(INTEGER, "x TCG", means[INTEGER][0], 2.3, True),
        Floor(INTEGER, "of native", means[INTEGER][1], 0.45, True),
        Floor(FLOAT, "x TCG", means[FLOAT][0], 10, True),
        Floor(SYSTEM, "x TCG", means[SYSTEM][0], 3, True),
        Floor(PROCESS, "x TCG", means[PROCESS][0], 3, True),
        Floor("all rows, geometric mean", "x TCG", means[ALL][0], 4, True),
        Floor("all rows, the least", "x TCG", least, 1, True),
        Floor("power-on to first user-space instruction", "x TCG", boot and boot.by_tcg, 3, True),
        Floor("power-on to first user-space instruction", "s", boot and boot.trapeze, 1.5, False),
        Floor("make on 4 vCPUs", "x TCG", make and make.by_tcg, 3, True),
        Floor("memory beyond guest RAM", "MiB", beyond and beyond / 2**20, 48, False),
    ]


def verdict(floor):
    if floor.value is None:
        return "not measured"
    met = floor.value >= floor.wanted if floor.at_least else floor.value < floor.wanted
    return "met" if met else "missed"


def cell(value, digits):
    return f"{value:10.{digits}f}" if value is not None else f"{'-':>10}"


def print_line(name, seconds, by_tcg, of_native):
    print(f"{name:20}", *(cell(s, 3) for s in seconds), cell(by_tcg, 2), cell(of_native, 3))


def print_table(rows):
    means = group_means(rows)
    heads = ["native s", "trapeze s", "TCG s", "x TCG", "of native"]
    print(f"{'':20}", *(f"{head:>10}" for head in heads))
    for group in GROUPS:
        some = [r for r in rows if r.group == group]
        if not some:
            continue
        print(f"\n{group}")
        for r in some:
            print_line("  " + r.name, [r.native, r.trapeze, r.tcg], r.by_tcg, r.of_native)
        print_line("  geometric mean", [None] * 3, *means[group])
    print()
    print_line(ALL, [None] * 3, *means[ALL])


def print_floors(found, facts):
    print("\nfloors")
    for f in found:
        value = f"{f.value:.{3 if f.unit == 's' else 2}f}" if f.value is not None else "-"
        wanted = f"{'at least' if f.at_least else 'under'} {f.wanted:g} {f.unit}"
        print(f"  {f.what:42} {wanted:>24} {value:>8}  {verdict(f)}")
    if "first_user_seconds" in facts:
        print(f"\nfirst user-space instruction by --stats: {facts['first_user_seconds']:.2f} s")


def as_json(rows, facts, found, failures):
    return {
        "rows": [r.as_json() for r in rows],
        "means": {g: {"times_tcg": m[0], "of_native": m[1]}
                  for g, m in group_means(rows).items()},
        "floors": [f._asdict() | {"verdict": verdict(f)} for f in found],
        **facts,
        "failures": failures,
    }
