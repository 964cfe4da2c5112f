"""The benchmark suite: the same programs on the host, under trapeze and under TCG."""

import collections
import json
import pathlib
import shutil
import tempfile

import boots
import image
import report
import ways
from works import select

MEMORY = "1G"


class Suite:
    """The rows to measure, and what was measured so far."""

    def __init__(self, args):
        self.args = args
        self.works = select(args.rows, args.groups)
        self.rows = [w for w in self.works if w.command]
        self.boots = [w for w in self.works if not w.command]
        self.samples = collections.defaultdict(list)  # by way and row
        self.facts = collections.defaultdict(list)
        self.failures = ways.Failures()
        self.progress = ways.Progress()
        self.image = image.Image(args.build, args.initrd, self.rows)

    def keep(self, way, samples):
        for row, sample in samples.items():
            self.samples[way, row].append(sample)

    def guests(self):
        """The ways of running a guest, and their commands."""
        if not self.args.no_trapeze:
            yield "trapeze"
        if not self.args.no_tcg and shutil.which(ways.QEMU):
            yield "tcg"

    def native(self):
        with self.image.native_folder(image.busybox()) as place:
            self.keep("native", ways.run_native(self.image, self.rows, place, self.progress,
                                                self.failures))

    def guest(self, way, initrds):
        for vcpus, (initrd, works) in initrds.items():
            command = ways.COMMANDS[way](self.args, MEMORY, vcpus)
            command = ways.with_boot(command, self.args.kernel, initrd,
                                     ways.CONSOLE + "rdinit=/bench/init")
            self.keep(way, ways.run_guest(way, command, works, self.progress, self.failures,
                                          self.args.timeout))

    def boot(self, way, initrd):
        samples, facts = boots.run_boots(self.args, way, self.boots, initrd, self.progress,
                                         self.failures)
        self.keep(way, samples)
        for name, value in facts.items():
            self.facts[name].append(value)

    def measure(self):
        """Rounds of all ways, so that a drifting host strikes all alike."""
        with tempfile.TemporaryDirectory() as temp:
            initrds = {}
            for vcpus in sorted({w.vcpus for w in self.rows}):
                works = [w for w in self.rows if w.vcpus == vcpus]
                initrds[vcpus] = pathlib.Path(temp) / f"{vcpus}.cpio", works
                self.image.write(*initrds[vcpus])
            small = pathlib.Path(temp) / "boot.cpio"
            image.Image(self.args.build, self.args.initrd, []).write(small, [])
            for number in range(self.args.runs):
                self.progress.round = f"round {number + 1} of {self.args.runs}, "
                if not self.args.no_native:
                    self.native()
                for way in self.guests():
                    self.guest(way, initrds)
                    self.boot(way, small)
        self.progress.done()

    def check(self):
        """Every machine must have computed the same."""
        for work in self.works:
            sums = {way: {s.checksum for s in self.samples[way, work.name]}
                    for way in report.WAYS if self.samples[way, work.name]}
            if len(set().union(*sums.values())) > 1:
                self.failures.add(work.name, "all", f"checksums differ: {sums}")

    def table(self):
        return [report.Row(w.name, w.group, *(
            min((s.seconds for s in self.samples[way, w.name]), default=None)
            for way in report.WAYS)) for w in self.works]


def run(args):
    """Measures, prints, and returns whether every row was right."""
    suite = Suite(args)
    suite.measure()
    suite.check()
    rows = suite.table()
    facts = {name: min(values) for name, values in suite.facts.items()}
    floors = report.kvm_floors(rows) if args.engine == "kvm" else report.floors(rows, facts)
    report.print_table(rows)
    report.print_floors(floors, facts)
    for failure in suite.failures:
        print(f"FAILED {failure}")
    if args.json:
        result = report.as_json(rows, facts, floors, suite.failures)
        pathlib.Path(args.json).write_text(json.dumps(result, indent="\t") + "\n",
                                           encoding="utf-8")
    return not suite.failures
