"""The `syncdevice` command: enroll a device, sync it, look into its file."""

import argparse
import json
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from syncdevice import __version__
from syncdevice.errors import Busy, DeviceRevoked, EnrollmentRefused, NotReachable, SyncError, Unusable
from syncdevice.outcomes import Outcome
from syncdevice.replica import Replica
from syncdevice.reports import CheckReport, Progress, SyncReport

EXIT_CODES: list[tuple[type[SyncError], int]] = [
    (NotReachable, 3),
    (DeviceRevoked, 4),
    (EnrollmentRefused, 5),
    (Busy, 6),
    (Unusable, 2),
    (SyncError, 1),
]
EPILOG = """exit codes: 0 done, 1 the server or the file refuses, 2 wrong usage, 3 the server cannot be reached
(edits are kept: sync again later), 4 the device was revoked, 5 the enrolment code was refused,
6 another process syncs the file, 7 a check found rows that differed"""
FOUND = 7
DESCRIPTIONS = {
    "log": "What waits in the outbox, and every change that was not simply applied with what became of it.",
    "conflicts": "Your changes that met those of others or were refused: what you entered, what the server had, and"
    " what became of it. `sync` brings what was decided since; `dismiss` takes one off the list.",
    "check": "Sync, then compare what the file holds with the server: ids and revisions, by digests. Only rows that"
    " differ are fetched and repaired; edits that wait stay. Exit code 7 where something differed.",
    "dismiss": "Take changes off the list of `conflicts`. What is decided about one later shows it again.",
}
SHELL_ROWS_MAX = 1_000
STATES = {
    "open": "waits for a person",
    "server": "the server's values stay",
    "device": "your values are taken",
    "mixed": "taken in part",
    "replayed": "mended and applied",
    "discarded": "discarded",
    "local": "not sent, on this device alone",
}


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="syncdevice",
        description="Keep an SQLite file in sync with a Syncserver.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"syncdevice {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    enroll = commands.add_parser("enroll", help="make a file the replica of a new device")
    enroll.add_argument("url", help="the server, such as https://sync.example.org")
    enroll.add_argument("code", help="the enrolment code that an administrator gave you; it works once")
    enroll.add_argument("path", help="the SQLite file to make")
    enroll.add_argument("--name", default=platform.node() or "device", help="how administrators see the device")
    enroll.add_argument("--platform", default=f"{platform.system()} {platform.release()}".lower())
    enroll.add_argument("--app-version", default=__version__)
    enroll.set_defaults(run=_enroll)

    sync = commands.add_parser("sync", help="push what waits, then pull to the end")
    sync.add_argument("--wait", type=int, default=0, metavar="SECONDS", help="stay for changes where there are none")
    sync.add_argument("--lock-wait", type=float, default=0.0, metavar="SECONDS", help="wait for another sync to end")
    sync.set_defaults(run=_sync)
    rotate = commands.add_parser("rotate", help="swap the device's token for a new one; sync does it every 30 days")
    rotate.add_argument("path", help="the replica's file")
    rotate.add_argument("--lock-wait", type=float, default=0.0, metavar="SECONDS", help="wait for a sync to end")
    rotate.set_defaults(run=_rotate)
    status = commands.add_parser("status", help="where the replica stands; works offline")
    status.set_defaults(run=_status)
    log = commands.add_parser(
        "log",
        help="what waits in the outbox, and what was not simply applied",
        description=DESCRIPTIONS["log"],
    )
    log.set_defaults(run=_log)
    conflicts = commands.add_parser(
        "conflicts",
        help="changes that met those of others or were refused, and why; works offline",
        description=DESCRIPTIONS["conflicts"],
    )
    conflicts.add_argument("--unresolved", action="store_true", help="only those that wait for a person")
    conflicts.add_argument("--all", action="store_true", help="also those that were dismissed")
    conflicts.set_defaults(run=_conflicts)
    check = commands.add_parser(
        "check",
        help="compare what the file holds with the server, and repair what differs",
        description=DESCRIPTIONS["check"],
    )
    check.add_argument(
        "--values", action="store_true", help="also look for a torn file, and compare all values: loads everything"
    )
    check.add_argument("--lock-wait", type=float, default=0.0, metavar="SECONDS", help="wait for another sync to end")
    check.set_defaults(run=_check)
    for command in (sync, status, log, conflicts, check):
        command.add_argument("path", help="the replica's file")
        command.add_argument("--json", action="store_true", help="print JSON")

    dismiss = commands.add_parser(
        "dismiss",
        help="take changes off the list of conflicts: you have seen what became of them",
        description=DESCRIPTIONS["dismiss"],
    )
    dismiss.add_argument("path", help="the replica's file")
    dismiss.add_argument("ids", nargs="*", metavar="id", help="of the change, as `conflicts` shows it")
    dismiss.add_argument("--all", action="store_true", help="all that the list shows")
    dismiss.set_defaults(run=_dismiss)

    shell = commands.add_parser("shell", help="type SQL at the replica; edits are recorded for the next sync")
    shell.add_argument("path", help="the replica's file")
    shell.set_defaults(run=_shell)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except SyncError as error:
        print(f"syncdevice: {error}", file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except sqlite3.Error as error:
        print(f"syncdevice: {options.path}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code or 0


def _enroll(options: argparse.Namespace) -> None:
    replica = Replica.enroll(
        options.url,
        options.code,
        options.path,
        name=options.name,
        platform=options.platform,
        app_version=options.app_version,
    )
    status = replica.status()
    print(f"{options.path} is device {status.device} ({status.name}), scopes: {', '.join(status.scopes) or 'none'}")
    print(f"Next: syncdevice sync {options.path}")


def _sync(options: argparse.Namespace) -> None:
    replica = Replica(options.path)
    waits = {"wait": options.wait, "lock_wait": options.lock_wait}
    if options.json:
        print(json.dumps(asdict(replica.sync(**waits))))
        return
    with _shown() as show:
        print(_sentence(replica.sync(show, **waits)))


def _check(options: argparse.Namespace) -> int:
    with _shown() as show:
        report = Replica(options.path).check(show, values=options.values, lock_wait=options.lock_wait)
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        _print_check(report)
    if not report.checked:
        return 1
    return FOUND if report.differences else 0


def _print_check(report: CheckReport) -> None:
    for name, found in report.differences.items():
        print(f"{name}: {found.changed:,} changed, {found.missing:,} missing, {found.surplus:,} surplus")
        for row, (device, server) in found.rows.items():
            print(f"  {row}  revision here {device or 'none'}, on the server {server or 'none'}")
    if not report.checked:
        print("not checked: the server is too old, or others write without a pause")
    elif report.differences:
        print("repaired" if report.repaired else "not all of it could be repaired: tell the server's administrator")
    else:
        print(f"{report.rows:,} rows, all as the server has them")
    if report.waiting:
        print(f"{report.waiting:,} rows were left alone, since edits of them wait")


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None] | None]:
    """What shows progress on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task("sync", total=None)
        yield lambda step: bar.update(task, description=step.phase, completed=step.done, total=step.total)


def _rotate(options: argparse.Namespace) -> None:
    Replica(options.path).rotate(lock_wait=options.lock_wait)
    print("the device has a new token; the old one goes on until the new one is used")


def _bar() -> Bar:
    columns = (SpinnerColumn(), TextColumn("{task.description:5}"), BarColumn(), MofNCompleteColumn())
    return Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)


def _sentence(report: SyncReport) -> str:
    outcomes = "".join(f", {count:,} {status}" for status, count in sorted(report.outcomes.items()))
    loaded = " (loaded afresh)" if report.reloaded else ""
    check = report.check
    differed = sum(d.changed + d.missing + d.surplus for d in check.differences.values()) if check else 0
    return (
        f"pushed {report.pushed:,}{outcomes}; pulled {report.upserted:,} rows, {report.deleted:,} deletes{loaded}"
        f"{f'; {report.healed:,} brought back to a restored server' if report.healed else ''}"
        f"{f'; {report.decided:,} decided since' if report.decided else ''}"
        f"{f'; {differed:,} rows differed from the server' if differed else ''} in {report.seconds:.1f} s"
    )


def _status(options: argparse.Namespace) -> None:
    status = asdict(Replica(options.path).status())
    if options.json:
        print(json.dumps(status))
        return
    rows = status.pop("rows")
    status["scopes"] = ", ".join(status["scopes"])
    for name, value in status.items():
        print(f"{name + ':':14} {'-' if value is None else value}")
    for name, count in rows.items():
        print(f"  {name + ':':20} {count:,}")


def _log(options: argparse.Namespace) -> None:
    replica = Replica(options.path)
    query = 'SELECT "id", "entity", "row", "op", "base", "set", "add", "group", "made_at" FROM "_sync_outbox"'
    conn = replica.connect()
    try:
        cursor = conn.execute(f'{query} ORDER BY "seq"')
        names = [column[0] for column in cursor.description]
        waiting: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in cursor]
    finally:
        conn.close()
    for mutation in waiting:
        mutation["set"], mutation["add"] = (json.loads(mutation[n]) if mutation[n] else None for n in ("set", "add"))
    outcomes = replica.outcomes()
    if options.json:
        print(json.dumps({"outbox": waiting, "outcomes": [_document(outcome) for outcome in outcomes]}))
        return
    for m in waiting:
        values = json.dumps({**(m["set"] or {}), **{n: f"+ {v}" for n, v in (m["add"] or {}).items()}})
        print(f"{m['made_at'][:19]}  waiting   {m['op']:6} {m['entity']} {m['row']}  {values}")
    for o in outcomes:
        reasons = "; ".join(f"{e['field'] or 'row'}: {e['message'] or e['code']}" for e in o.reasons)
        values = json.dumps({**(o.entered or {}), **(o.added or {})}, ensure_ascii=False)
        print(f"{o.made_at[:19]}  {o.status:9} {o.op:6} {o.entity} {o.row}  {values}  {reasons}".rstrip())
        print(f"{'':19}  -> {STATES.get(o.state, o.state)}{_decision(o)}")
    if not waiting and not outcomes:
        print("nothing waits, and everything pushed was applied")


def _conflicts(options: argparse.Namespace) -> None:
    replica = Replica(options.path)
    wanted = {"unresolved_only": options.unresolved, "dismissed": options.all}
    conflicts, rejections = replica.conflicts(**wanted), replica.rejections(**wanted)
    if options.json:
        lists = {"conflicts": conflicts, "rejections": rejections}
        print(json.dumps({name: [_document(outcome) for outcome in found] for name, found in lists.items()}))
        return
    for o in sorted([*conflicts, *rejections], key=lambda outcome: outcome.made_at):
        print(f"{o.made_at[:19]}  {o.id}  {o.entity} {o.row}{'  (dismissed)' if o.dismissed else ''}")
        print(f"  {o.describe()}")
        for name, value in {**(o.entered or {}), **(o.added or {})}.items():
            theirs = ": the row was not there"
            if o.server is not None:
                theirs = f" {json.dumps(o.server[name], ensure_ascii=False)}"
            sign = "+ " if name in (o.added or {}) else ""
            print(f"    {name + ':':20} entered {sign}{json.dumps(value, ensure_ascii=False)}, server{theirs}")
    if not conflicts and not rejections:
        print("nothing waits for a decision" if options.unresolved else "no conflicts, and nothing was refused")


def _document(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"server": outcome.server, "reasons": outcome.reasons, "text": outcome.describe()}


def _decision(outcome: Outcome) -> str:
    who = f", {outcome.by} {(outcome.decided_at or '')[:19]}" if outcome.by else ""
    return (who + (f": {outcome.comment}" if outcome.comment else "")).rstrip()


def _dismiss(options: argparse.Namespace) -> None:
    replica = Replica(options.path)
    shown = [*replica.conflicts(), *replica.rejections()] if options.all else []
    if not options.ids and not options.all:
        raise Unusable("give the ids of changes as `syncdevice conflicts` shows them, or --all")
    count = sum(map(replica.dismiss, shown))
    unknown = [mutation for mutation in options.ids if not replica.dismiss(mutation)]
    print(f"dismissed {count + len(options.ids) - len(unknown):,}")
    if unknown:
        raise SyncError(f"not known as a conflict or a rejection: {', '.join(unknown)}")


def _shell(options: argparse.Namespace) -> None:
    replica = Replica(options.path)
    conn = replica.connect()
    conn.isolation_level = None
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{options.path}: SQL ends with ; and .quit leaves. Tables: {', '.join(replica.status().rows)}")
    statement = ""
    try:
        while True:
            line = input(("...> " if statement else "sql> ") if interactive else "")
            if not statement and line.strip() in {".quit", ".exit"}:
                return
            statement += line + "\n"
            if not sqlite3.complete_statement(statement):
                continue
            try:
                _print_rows(conn.execute(statement))
            except sqlite3.Error as error:
                print(f"error: {error}", file=sys.stderr)
            statement = ""
    except EOFError:
        return
    finally:
        conn.close()


def _print_rows(cursor: sqlite3.Cursor) -> None:
    if cursor.description is None:
        return
    table = Table(*[str(column[0]) for column in cursor.description])
    rows = cursor.fetchmany(SHELL_ROWS_MAX)
    for row in rows:
        table.add_row(*["NULL" if value is None else str(value) for value in row])
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    if len(rows) == SHELL_ROWS_MAX:
        print(f"(only the first {SHELL_ROWS_MAX:,} rows)")


if __name__ == "__main__":
    raise SystemExit(main())
