"""`make bench`, or `python -m bench`: what Hyper takes, in tables; as root.

    .venv/bin/python -m bench                      # everything
    .venv/bin/python -m bench cold-start --runs 9  # one of them
    .venv/bin/python -m bench import --write       # and put its table into docs/benchmarks.md

Everything runs in daemons of its own with roots and network namespaces of their own, and is gone afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import cold_start, imports
from bench.report import machine, plain, write

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "benchmarks.md"
BENCHES = ("cold-start", "import", "streams")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; all when none is named")
    parser.add_argument("--runs", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--dockerd", type=Path, help="Docker's engine to compare with (default: the one on PATH)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    wanted = arguments.benches or list(BENCHES)
    if unknown := set(wanted) - set(BENCHES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    if arguments.runs < 1:
        parser.error("--runs must be 1 or more")
    if os.geteuid() != 0:
        parser.error("needs root: it makes network namespaces and runs daemons")
    found = arguments.dockerd or shutil.which("dockerd")
    dockerd = Path(found) if found else None
    for name in wanted:
        if name == "streams":
            _streams(dockerd)
            continue
        section = (
            cold_start.measure(arguments.runs) if name == "cold-start" else imports.measure(arguments.runs, dockerd)
        )
        print(plain(section), flush=True)
        if arguments.write:
            write(section, f".venv/bin/python -m bench {name} --runs {arguments.runs}", DOCS)
    print(f"\n{machine()}")
    return 0


def _streams(dockerd: Path | None) -> None:
    """A program of its own, with more options than these."""
    print("\nStreams", flush=True)
    peer = ["--peer", str(dockerd)] if dockerd else []
    subprocess.run([sys.executable, "-m", "bench.streams", *peer], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
