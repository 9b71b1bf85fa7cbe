"""`make bench`, or `python -m bench`: Hyper on each of its rungs beside Docker and Podman, in one run on one
machine; as root.

    make bench                                      # everything at full size, into docs/benchmarks.md
    make bench ARGS=--small                         # the same in small: shows that it works, in minutes
    make bench ARGS='starts --runs 40 --write'      # some of it, into docs/benchmarks.md
    make bench ARGS='profile --rung template --perf'

Everything runs in daemons of its own with roots, namespaces and cgroups of their own, and is gone afterwards.
Docker and Podman are the installed ones, or those that `make peers` has unpacked.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import bursts, cold_start, idle, imports, inside, plot, profiler, starts, streams, sustained, web
from bench.fleet import Fleet
from bench.leftovers import interfaces, left_behind, remains
from bench.peers import UNPACKED, Peers
from bench.plan import FULL, SMALL, Plan, plan_of
from bench.report import Section, machine, plain, write
from bench.results import keep, samples_of
from bench.rungs import HOW_TO_GET, KINDS, RUNGS, kernels

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "build" / "bench" / "results.json"
PICTURE = ROOT / "docs" / "benchmarks.svg"
PLOTTED = (starts.RUN_NONE, starts.RUN_DEFAULT, starts.RUN_DETACHED, starts.EXEC_NEXT)

Measure = Callable[[Fleet, Plan], Section]
USUAL: dict[str, Measure] = {
    "starts": starts.measure,
    "bursts": bursts.measure,
    "sustained": sustained.measure,
    "web": web.measure,
    "idle": idle.measure,
    "inside": inside.measure,
    "cold-start": cold_start.measure,
}
PROFILE = "profile"
BY_NAME = ("import", "streams", "plot")
"""Only when they are asked for: what no container's start depends on."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    plan = plan_of(small=arguments.small, runs=arguments.runs, kernel=arguments.kernel)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for folders in remains():
        print(f"a killed run has left {folders}; what it started may still run, and disturb this one")
    before = interfaces()
    fleet = Fleet(arguments.accel, arguments.pool, Peers(arguments.peers))
    for kind in (arguments.kernel,) if arguments.kernel else KINDS:
        if kind not in kernels():
            fleet.miss(f"hyper with the {kind} kernel: there is none on this machine; {HOW_TO_GET[kind]}")
    failed = [name for name in arguments.benches or (*USUAL, PROFILE) if not one(name, fleet, plan, arguments)]
    for reason in fleet.missing:
        print(f"not measured: {reason}")
    left = fleet.leftovers + left_behind(before)
    print("left behind: " + ("\n  ".join(["", *left]) if left else "nothing"))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed or left else 0


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benches",
        nargs="*",
        metavar="BENCH",
        help=f"of {', '.join((*USUAL, PROFILE))} (all of these when none is named), {', '.join(BY_NAME)}",
    )
    parser.add_argument("--small", action="store_true", help="few repetitions, few containers, one kernel")
    parser.add_argument(
        "--runs", type=int, help=f"repetitions of each command (default: {FULL.runs}, small: {SMALL.runs})"
    )
    parser.add_argument("--kernel", choices=KINDS, help="only this kind of guest kernel (default: both)")
    parser.add_argument("--pool", type=int, metavar="N", help="clones in the pool (default: hyperd's own)")
    parser.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="how guests run (default: auto)"
    )
    parser.add_argument(
        "--peers", type=Path, default=UNPACKED, metavar="FOLDER", help="with usr and etc of unpacked packages"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="for every measurement (default: in build/bench)",
    )
    parser.add_argument("--write", action="store_true", help="put tables and picture into docs/")
    parser.add_argument("--rung", choices=RUNGS, help="profile: which rung (default: pool and template)")
    parser.add_argument("--perf", action="store_true", help="profile: sample all processors by perf")
    parser.add_argument("--cprofile", action="store_true", help="profile: hyperd's functions")
    parser.add_argument("--mib", type=int, default=64, help="streams: how much each row moves (default: 64)")
    parser.add_argument("--only", default="", help="streams: rows that begin so: attach, exec, stdin, cat, logs")
    arguments = parser.parse_args(argv)
    there_are = (*USUAL, PROFILE, *BY_NAME)
    if unknown := set(arguments.benches) - set(there_are):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(there_are)}")
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs must be 1 or more")
    if arguments.pool is not None and arguments.pool < 1:
        parser.error("--pool must be 1 or more; the rungs without a pool are measured anyway")
    if arguments.mib < 4 or arguments.mib % 4:
        parser.error("--mib must be a multiple of 4")
    if os.geteuid() != 0:
        parser.error("needs root: it makes namespaces and cgroups and runs daemons")
    return arguments


def one(name: str, fleet: Fleet, plan: Plan, arguments: argparse.Namespace) -> bool:
    """Measure it, show it, keep it; False when it failed, which the others are not to suffer from."""
    began = time.monotonic()
    command = f"make bench ARGS='{' '.join((name, *options(arguments)))}'"
    try:
        for section in measured(name, fleet, plan, arguments):
            taken_on = machine()
            print(plain(section), flush=True)
            keep(section, command, taken_on, arguments.results)
            if arguments.write:
                write(section, command, taken_on, DOCS)
        if name == "plot" or (name == "starts" and arguments.write):
            picture(arguments.results)
    except Exception:
        traceback.print_exc()
        print(f"{name} failed", flush=True)
        return False
    print(f"({name}: {time.monotonic() - began:.0f} s; {machine()})", flush=True)
    return True


def measured(name: str, fleet: Fleet, plan: Plan, arguments: argparse.Namespace) -> Sequence[Section]:
    if name == "plot":
        return ()
    if name == PROFILE:
        rungs = (arguments.rung,) if arguments.rung else RUNGS[:2]
        return profiler.measure(fleet, plan, rungs, perf=arguments.perf, cprofile=arguments.cprofile)
    if name == "import":
        return [imports.measure(fleet, plan)]
    if name == "streams":
        return [streams.measure(fleet, plan, arguments.mib, arguments.only)]
    return [USUAL[name](fleet, plan)]


def options(arguments: argparse.Namespace) -> list[str]:
    """Those that make another run the same."""
    found = ["--small"] if arguments.small else []
    for name, usual in (("runs", None), ("kernel", None), ("pool", None), ("accel", "auto"), ("rung", None)):
        if (value := getattr(arguments, name)) != usual:
            found += [f"--{name}", str(value)]
    return [*found, *(f"--{name}" for name in ("perf", "cprofile") if getattr(arguments, name))]


def picture(results: Path) -> None:
    """From the last run's measurements."""
    try:
        samples, taken_on = samples_of("starts", results)
    except KeyError:
        raise RuntimeError("nothing to plot: `make bench ARGS=starts` comes first") from None
    plot.draw(samples, PLOTTED, PICTURE, taken_on)
    print(f"plot: {PICTURE.relative_to(ROOT)}, {PICTURE.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    sys.exit(main())
