"""Keep this server and a pre-existing system in step: `manage.py sync_legacy --help`."""

import json
import os
import re
import sys
import time
from argparse import SUPPRESS, ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from legacy.connector import Misconfigured, Unreachable
from legacy.due import due
from legacy.exchange import Change
from legacy.fleet import runs
from legacy.models import Run
from legacy.plan import Kept
from legacy.report import headline, letters, summary, table, table_of_many
from legacy.rollback import TakenBack
from legacy.runs import EXIT_CODES, pause, resume, roll_back_run, run
from legacy.systems import System, declared, first_name, of_kind, system
from legacy.webhooks.outbox import deliver_due
from sync.alone import Busy
from syncserver import collector

HELP = """Take over what changed in the pre-existing system since the last run, then send it what changed here.

Run it as often as you like: what both sides have is not sent again, and what a killed run had done is not done twice.
Records that fail wait as dead letters (in the admin) and are tried again by later runs; they hold nothing else up.

With --kind, every branch of a kind that is due by its schedule gets a run, --parallel of them at once, the one first
that ran longest ago. One that is down, or hangs until its time-out, delays no other.

exit codes: 0 done, or another run was at work, or the system is paused
            1 some records failed                  2 the system could not be reached, or was cut off
            3 wrong configuration                  4 stopped for safety: look, then --force
            of several systems, the highest
"""
ALONE = ("mapping", "dry_run", "rollback", "pause", "resume", "test")  # options of one system
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """`90s`, `5m`, `1h`, or seconds."""
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if not found or int(found[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is no time; say 90s, 5m or 1h")
    return int(found[1]) * UNITS.get(found[2], 1)


class Command(BaseCommand):
    help = HELP

    def run_from_argv(self, argv: list[str]) -> None:
        collector.settle()  # this process is ours
        super().run_from_argv(argv)

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--system", nargs="+", default=[first_name()], help=f"which one, or several (default: {first_name()})"
        )
        which.add_argument("--kind", help="all branches of this kind that are due")
        parser.add_argument(
            "--parallel",
            type=int,
            metavar="N",
            help=f"of several systems, runs at once (default: {settings.LEGACY_PARALLEL})",
        )
        parser.add_argument("--mapping", action="append", default=[], help="only this one; may be given several times")
        parser.add_argument(
            "--every", type=seconds, metavar="TIME", help="go on for ever, with a run every 90s, 5m, 1h"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would change, and write nothing anywhere"
        )
        parser.add_argument("--keep", action="store_true", help="with --dry-run: keep the plan for the admin's page")
        parser.add_argument("--trigger", default="command", help=SUPPRESS)  # what started it, as the run notes it
        parser.add_argument(
            "--retry", action="store_true", help="try every dead letter now, however recently it failed"
        )
        parser.add_argument("--force", action="store_true", help="do what the safety stop held back")
        parser.add_argument("--rollback", metavar="RUN", help="undo what a run wrote here, where nothing changed since")
        parser.add_argument("--pause", metavar="WHY", help="do nothing with the system until --resume")
        parser.add_argument("--resume", action="store_true", help="work with a paused system again")
        parser.add_argument("--test", action="store_true", help="sign in, say who we are there, and do nothing else")
        parser.add_argument(
            "--json", action="store_true", help="print a line of JSON for each run; the default without a terminal"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        self.as_json = options["json"] or not sys.stdout.isatty()
        several = options["kind"] or len(options["system"]) > 1
        if several and (wrong := [name for name in ALONE if options[name]]):
            raise CommandError(f"--{wrong[0].replace('_', '-')} is for one system.")
        options["systems"], options["system"] = options["system"], options["system"][0]
        if options["pause"] or options["resume"]:
            self._must_exist(options["system"])
        if options["pause"]:
            pause(options["system"], options["pause"])
            return self.stdout.write(f"{options['system']} is paused.")
        if options["resume"]:
            resume(options["system"])
        if options["rollback"]:
            return self._roll_back(options)
        if options["test"]:
            return self._test(options["system"])
        code = self._run(options)
        while options["every"]:
            time.sleep(options["every"])
            code = self._run(options)
        if code:
            sys.exit(code)
        return None

    def _run(self, options: dict[str, Any]) -> int:
        """One round, and what it left to tell others; its exit code."""
        code = self._run_systems(options)
        if not options["dry_run"]:
            deliver_due()
        return code

    def _run_systems(self, options: dict[str, Any]) -> int:
        how = {
            "trigger": "every" if options["every"] else options["trigger"],
            "retry_all": options["retry"],
            "force": options["force"],
        }
        kept = Kept(options["system"]) if options["dry_run"] and options["keep"] else None

        def show(change: Change) -> None:
            kept.add(change) if kept else self.stdout.write(str(change))

        try:
            if options["kind"]:
                return self._run_many(due(of_kind(options["kind"]), timezone.now()), options["parallel"], how)
            if len(options["systems"]) > 1:
                return self._run_many([system(name) for name in options["systems"]], options["parallel"], how)
            found = system(options["system"])
            how |= {"only": _known(found.mappings, options["mapping"]), "pretend": options["dry_run"], "show": show}
            this = self._run_apart(found, how) if found.timeout_seconds else self._run_here(found, how)
        except Busy as error:
            self.stdout.write(json.dumps({"state": "busy", "error": str(error)}) if self.as_json else str(error))
            return 0
        except Misconfigured as error:
            this = Run(system=options["kind"] or options["system"], state=Run.State.MISCONFIGURED, error=str(error))
        except BrokenPipeError:  # `--dry-run | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if kept:
            kept.write(this)
        self._print(this, options["dry_run"])
        return _code(this)

    def _run_here(self, found: System, how: dict[str, Any]) -> Run:
        with Console(stderr=True).status("") as status:
            return run(found, tell=lambda *told: status.update(_step(*told)), **how)

    def _run_apart(self, found: System, how: dict[str, Any]) -> Run:
        """In a process of its own, so that it can be cut off. Raises Busy."""
        with Console(stderr=True).status("") as status:

            def tell(_: str, what: str, records: int) -> None:
                status.update(_step(what, records))

            show = how.pop("show")
            for this in runs([found], parallel=1, tell=tell, show=lambda _, change: show(change), **how):
                return this
        raise Busy(f"Another run of {found.name} is at work.")

    def _run_many(self, systems: list[System], parallel: int | None, how: dict[str, Any]) -> int:
        done: list[Run] = []
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            rows = {}

            def tell(name: str, what: str, records: int) -> None:
                if name not in rows:
                    rows[name] = progress.add_task(name, total=None)
                progress.update(rows[name], description=f"{name}: {_step(what, records)}")

            for this in runs(systems, parallel=parallel or settings.LEGACY_PARALLEL, tell=tell, **how):
                done.append(this)
                if this.system in rows:
                    progress.remove_task(rows.pop(this.system))
                if self.as_json:
                    self._print(this)
        if not self.as_json:
            Console().print(table_of_many(done) if done else "Nothing is due.")
        return max(map(_code, done), default=0)

    def _must_exist(self, name: str) -> None:
        """Raises CommandError where no system of that name is declared, however wrong one may be."""
        try:
            names = [each.name for each in declared()]
        except Misconfigured as error:
            raise CommandError(str(error), returncode=3) from None
        if name not in names:
            raise CommandError(f"There is no system {name!r}; there is: {', '.join(names) or 'none'}.", returncode=3)

    def _test(self, name: str) -> None:
        """Sign in and out. Raises CommandError."""
        try:
            found = system(name)
        except Misconfigured as error:
            raise CommandError(str(error), returncode=3) from None
        try:
            connector = found.connected()
            self.stdout.write(f"{name}: signed in as {connector.open()}")
            connector.close()
        except (Misconfigured, Unreachable) as error:
            code = 2 if isinstance(error, Unreachable) else 3
            raise CommandError(found.hide(str(error)), returncode=code) from None

    def _print(self, this: Run, pretended: bool = False) -> None:
        if self.as_json:
            self.stdout.write(json.dumps(summary(this)))
            return self.stdout.flush()
        console = Console(highlight=False, soft_wrap=True)
        console.print(escape(headline(this, pretended)))
        if this.counts:
            console.print(table(this))
        for line in letters(this):
            console.print(escape(line))
        if this.error:
            self.stderr.write(this.error)
        return None

    def _roll_back(self, options: dict[str, Any]) -> None:
        try:
            found = roll_back_run(system(options["system"]), options["rollback"], pretend=options["dry_run"])
        except (Busy, Misconfigured) as error:
            raise CommandError(str(error), returncode=0 if isinstance(error, Busy) else 3) from None
        if self.as_json:
            self.stdout.write(json.dumps({"taken_back": dict(found.counts), "left": found.left}))
        else:
            self.stdout.write("\n".join([found.told, *found.left]))
        _say_what_follows(self, options, found)


def _say_what_follows(command: BaseCommand, options: dict[str, Any], found: TakenBack) -> None:
    if not options["dry_run"] and found.counts:
        command.stderr.write(
            f"{options['system']} is paused, as the next run would read the same again. "
            f"When what was wrong is mended: sync_legacy --system {options['system']} --resume"
        )


def _known(mappings: Any, names: list[str]) -> list[str]:
    there = [mapping.name for mapping in mappings]
    if unknown := sorted(set(names) - set(there)):
        raise Misconfigured(f"There is no mapping {unknown[0]!r}; there is: {', '.join(there)}.")
    return names


def _step(what: str, records: int) -> str:
    return f"{what}: {records:,}" if records else what


def _code(this: Run) -> int:
    return EXIT_CODES.get(Run.State(this.state), 1)
