"""The table of the suite, its means, and the floors."""

import math

from works import GROUPS


def mean(values):
    """The geometric mean; None of nothing."""
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def ratio(a, b):
    return a / b if a and b else None


class Row:
    """The least time of each way, None if that was not measured."""

    def __init__(self, name, group, native=None, trapeze=None, tcg=None):
        self.name, self.group = name, group
        self.native, self.trapeze, self.tcg = native, trapeze, tcg

    @property
    def by_tcg(self):
        return ratio(self.tcg, self.trapeze)

    @property
    def of_native(self):
        return ratio(self.native, self.trapeze)

    def as_json(self):
        return {"work": self.name, "group": self.group, "native_seconds": self.native,
                "trapeze_seconds": self.trapeze, "tcg_seconds": self.tcg,
                "times_tcg": self.by_tcg, "of_native": self.of_native}


def cell(value, digits):
    return f"{value:10.{digits}f}" if value is not None else f"{'-':>10}"


def print_line(name, seconds, by_tcg, of_native):
    print(f"{name:24}", *(cell(s, 3) for s in seconds), cell(by_tcg, 2), cell(of_native, 3))


def group_means(rows):
    """(times TCG, fraction of native) by group, and of all rows."""
    groups = {g: [r for r in rows if r.group == g] for g in GROUPS}
    groups["all rows"] = rows
    return {g: (mean(r.by_tcg for r in some), mean(r.of_native for r in some))
            for g, some in groups.items() if some}


def print_table(rows):
    means = group_means(rows)
    print(f"{'':24}", *(f"{head:>10}" for head in
                        ["native s", "trapeze s", "TCG s", "x TCG", "of native"]))
    for group in GROUPS:
        some = [r for r in rows if r.group == group]
        if not some:
            continue
        print(f"\n{group}")
        for r in some:
            print_line("  " + r.name, [r.native, r.trapeze, r.tcg], r.by_tcg, r.of_native)
        print_line("  geometric mean", [None] * 3, *means[group])
    print()
    print_line("all rows", [None] * 3, *means["all rows"])
