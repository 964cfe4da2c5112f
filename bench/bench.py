#!/usr/bin/env python3
"""What doc/performance.md quotes: trapeze beside QEMU's TCG and the bare host, in one run."""

import argparse
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "script"))  # guest_image

import exits  # noqa: E402
import interpreter  # noqa: E402
import suite  # noqa: E402


def words(text):
    return [w.strip() for w in text.split(",") if w.strip()]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--kernel", help="a bzImage")
    parser.add_argument("--initrd", help="the initramfs that script/image makes")
    parser.add_argument("--engine", help="of trapeze run; what it takes by default")
    parser.add_argument("--runs", type=int, default=2, help="rounds; the least time counts")
    parser.add_argument("--rows", type=words, default=[], help="only these rows: sort,fib")
    parser.add_argument("--groups", type=words, default=[],
                        help="only groups that start with these words: integer,fork")
    parser.add_argument("--no-native", action="store_true")
    parser.add_argument("--no-trapeze", action="store_true")
    parser.add_argument("--no-tcg", action="store_true")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for a guest's rows")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--loop-mix", action="store_true",
                        help="the interpreter's loop mix and boot instead")
    parser.add_argument("--exits", action="store_true",
                        help="the cost of exits and of starting on KVM instead, against QEMU on KVM")
    args = parser.parse_args()
    args.trapeze = str(args.build / "src" / "cli" / "trapeze")
    return args


def main():
    args = arguments()
    print(f"on {os.cpu_count()} CPUs")
    if args.exits:
        exits.run_all(args)
        return
    if args.loop_mix:
        interpreter.run_all(args)
        return
    sys.exit(not suite.run(args))


if __name__ == "__main__":
    main()
