"""Measures the project beside the physical limit, in one run: `script/bench --help`."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from bench.report import Outcome, show, show_json
from bench.server import Server, serving

NAMES = ("push", "conflicts", "mixed", "pull", "replica", "delta", "idle", "scopes", "legacy")


def main() -> int:
    """Run what is asked for. 0: every figure is met; 1: one is missed."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all of them unless named")
    parser.add_argument("--json", action="store_true", help="print one JSON object, by benchmark")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with serving() as server:
        outcomes = [_run(name, server) for name in NAMES if name in (given.names or NAMES)]
    (show_json if given.json else show)(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _run(name: str, server: Server) -> Outcome:
    print(f"{name} …", file=sys.stderr, flush=True)
    server.empty()
    run: Callable[[Server], Outcome] = import_module(f"bench.{name}").run
    return run(server)


if __name__ == "__main__":
    sys.exit(main())
