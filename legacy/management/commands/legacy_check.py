"""Print a system's mappings as tables, with what they make of real records: `manage.py legacy_check --help`."""

import sys
from collections.abc import Mapping as Map
from dataclasses import fields, is_dataclass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from legacy.check import check_against
from legacy.connector import Connector, Misconfigured, Record, Unreachable
from legacy.convert import By, How, Values
from legacy.document import Unmappable
from legacy.mapping import F, Mapping
from legacy.systems import first_name, system

WIDTH_WITHOUT_TERMINAL = 160  # characters
VALUE_CHARS_MAX = 40


class Command(BaseCommand):
    help = "Check the mappings of a system, and print them as tables with an example from both sides. Writes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--system", default=first_name(), help="which one (default: %(default)s)")
        parser.add_argument("--offline", action="store_true", help="do not ask the system for examples")

    def handle(self, *_: Any, **options: Any) -> None:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
        try:
            found = system(options["system"])
        except Misconfigured as error:
            raise CommandError(str(error), returncode=3) from None
        try:
            connector = None if options["offline"] else found.connected()
            if connector:
                console.print(f"{found.name}: signed in as {connector.open()}")
            for mapping in found.mappings:
                console.print(_table(mapping, connector))
            if connector:
                connector.close()
        except Misconfigured as error:
            raise CommandError(found.hide(str(error)), returncode=3) from None
        except Unreachable as error:
            raise CommandError(
                f"{found.hide(str(error))}\n--offline checks without the system.", returncode=2
            ) from None


def _table(mapping: Mapping, connector: Connector | None) -> Table:
    title = f"{mapping.name}: {mapping.direction}, {mapping.mode}, {mapping.wins} wins, deletes {mapping.deletes}"
    examples = ("their example", "ours of it") if connector else ()
    table = Table(*(Column(name, overflow="fold") for name in ("ours", "", "theirs", "how", *examples)), title=title)
    records: list[Record] = []
    if connector:
        check_against(mapping, connector.capabilities)
        records = connector.changes(mapping.source, mapping.places, {}).records
    for line in mapping.fields:
        seen = map(escape, _examples(mapping, line, records)) if connector else ()
        table.add_row(*_row(mapping, line), *seen)
    if mapping.rows:
        for line in mapping.rows.fields:
            table.add_row(f"{mapping.rows.name}.{line.ours}", *_row(mapping, line)[1:])
    return table


def _row(mapping: Mapping, line: F) -> tuple[str, str, str, str]:
    arrow = {"pull": "←", "push": "→"}.get(line.only, "↔" if mapping.both else "←")
    how = _how(line.how) if line.how else f"the row of {line.ref}" if line.ref else ""
    told = "; ".join(filter(None, (how, line.wins and f"{line.wins} wins")))
    return ", ".join(line.names), arrow, escape(", ".join(line.places)), escape(told)


def _how(how: How) -> str:
    """As it is written in the mapping, without what was left out there, and of a value map the beginning."""
    if isinstance(how, By) or not is_dataclass(how):
        return str(how)
    if isinstance(how, Values):
        first = next((f"{theirs!r}: {ours!r}" for theirs, ours in how.map.items()), "")
        return f"Values({first}, … {len(how.map)})"
    given = (getattr(how, each.name) for each in fields(how) if each.init and getattr(how, each.name) != each.default)
    return f"{type(how).__name__}({', '.join(map(repr, given))})"


def _examples(mapping: Mapping, line: F, records: list[Record]) -> tuple[str, str]:
    """Of the first record that has something there, and of the first one where none has."""
    if not records:
        return "(no record)", ""
    filled = (r for r in records if any(r.values.get(place) not in (None, "") for place in line.places))
    record = next(filled, records[0])
    theirs = ", ".join(_short(record.values, place, f"(absent in {len(records)})") for place in line.places)
    try:
        ours = mapping.ours(record.values, lambda name, key: f"the {name} {key}")
    except Unmappable as error:
        return theirs, f"cannot be mapped: {error}"
    return theirs, ", ".join(_short(ours, name, "(not taken over)") for name in mapping.wire_names(line))


def _short(values: Map[str, Any], name: str, absent: str) -> str:
    text = repr(values[name]) if name in values else absent
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 1] + "…"
