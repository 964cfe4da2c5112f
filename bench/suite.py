"""The benchmark suite: the same programs on the host, under trapeze and under TCG."""

import json
import pathlib
import shutil
import tempfile

import report
import ways
from works import select


def measure(args, works):
    """Samples by way and row: rounds of all ways, so that a drifting host strikes all."""
    image = ways.Image(args.build, args.initrd)
    progress = ways.Progress()
    samples = {"native": [], "trapeze": [], "tcg": []}
    with tempfile.TemporaryDirectory() as temp:
        initrd = pathlib.Path(temp) / "initramfs.cpio"
        image.write(initrd, works)
        words = ways.boot_words(args, initrd, ways.APPEND)
        for number in range(args.runs):
            mark = f"round {number + 1} of {args.runs}, "
            if not args.no_native:
                samples["native"].append(
                    ways.run_native(image, works, lambda t, m=mark: progress(m + t)))
            for way, command in machines(args).items():
                samples[way].append(ways.run_guest(
                    way, ways.with_boot(command, words), works,
                    lambda t, m=mark: progress(m + t), args.timeout))
    progress("")
    return samples


def machines(args):
    found = {} if args.no_trapeze else {"trapeze": ways.trapeze_command(args)}
    if not args.no_tcg and shutil.which(ways.QEMU):
        found["tcg"] = ways.tcg_command(args)
    return found


def check(works, samples):
    """Every machine must have computed the same."""
    for work in works:
        sums = {way: {r[work.name].checksum for r in rounds}
                for way, rounds in samples.items() if rounds}
        if work.checked and len(set().union(*sums.values())) > 1:
            raise ways.Failure(f"row {work.name} computed different things: {sums}")


def rows_of(works, samples):
    def least(way, name):
        return min((r[name].seconds for r in samples[way]), default=None)

    return [report.Row(w.name, w.group, *(least(way, w.name)
                                          for way in ["native", "trapeze", "tcg"])) for w in works]


def run(args):
    works = select(args.rows, args.groups)
    samples = measure(args, works)
    check(works, samples)
    rows = rows_of(works, samples)
    report.print_table(rows)
    if args.json:
        result = {"rows": [r.as_json() for r in rows]}
        pathlib.Path(args.json).write_text(json.dumps(result, indent="\t") + "\n")
