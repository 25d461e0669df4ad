"""Branches as people enter them: one in a form, many in a CSV file. Checked against the template of their kind."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from legacy.branches import address
from legacy.branches.models import Branch
from legacy.connector import Misconfigured
from legacy.schedule import problem
from legacy.systems import Many, single, templates

ROWS_MAX = 10_000  # of one file
# The columns of a file; every other one becomes a parameter.
COLUMNS = ("name", "title", "url", "enabled", "schedule", "zone", "timeout_seconds", "notes")
NO = ("0", "no", "false", "off")


def check(branch: Branch, url: str | None) -> None:
    """`url`: as it was typed; None: as it is. Raises ValidationError, by field; it quotes no address."""
    errors: dict[str, str] = {}
    template = templates().get(branch.kind)
    if template is None:
        errors["kind"] = f"There is no kind {branch.kind!r}; there is: {', '.join(templates()) or 'none'}."
    elif wrong := problem(branch.schedule or template.schedule, branch.zone or template.zone):
        errors["schedule"] = wrong
    if branch.full_name in {each.name for each in single()}:
        errors["name"] = f"{branch.full_name} is a system of its own."
    if url is not None and template and (wrong := _problem_of(url, template)):
        errors["url"] = wrong
    if errors:
        raise ValidationError(errors)


def _problem_of(url: str, template: Many) -> str:
    if not url:
        return "An address is needed."
    try:
        resolved = address.resolved(url)
    except Misconfigured as error:
        # Where it runs, the variable may be there, though it is not here.
        return "" if address.FROM_ENVIRONMENT.fullmatch(url) else str(error)
    return address.problem(resolved, template.schemes)


@transaction.atomic
def take(kind: str, lines: Iterable[str]) -> tuple[int, int]:
    """Make or change the branches of a CSV file with a heading; how many of each. What has no column stays as it is.

    Raises ValidationError with all that is wrong, each with its line and no address in it; then nothing was changed.
    """
    made = changed = 0
    wrong: list[str] = []
    for line, row in _rows(lines):
        try:
            new = _take(kind, row)
        except (ValidationError, ValueError) as error:
            told = error.messages if isinstance(error, ValidationError) else [str(error)]
            wrong.append(f"Line {line}: {' '.join(told)}")
            continue
        made, changed = made + new, changed + (not new)
    if wrong:
        raise ValidationError(wrong)
    return made, changed


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(lines)
    if "name" not in (reader.fieldnames or ()):
        raise ValidationError("The first line must name the columns: name, url, …")
    for count, row in enumerate(reader):
        if count == ROWS_MAX:
            raise ValidationError(f"More than {ROWS_MAX} lines: take them over in parts.")
        if None in row:
            raise ValidationError(f"Line {reader.line_num}: more values than columns.")
        yield reader.line_num, {name.strip(): (value or "").strip() for name, value in row.items()}


def _take(kind: str, row: dict[str, str]) -> bool:
    """Whether it was a new one. Raises ValidationError."""
    found = Branch.objects.filter(kind=kind, name=row["name"]).first()
    branch = found or Branch(kind=kind, name=row["name"])
    for name in ("title", "schedule", "zone", "notes"):
        setattr(branch, name, row.get(name, getattr(branch, name)))
    if "enabled" in row:
        branch.enabled = row["enabled"].lower() not in NO
    if "timeout_seconds" in row:
        branch.timeout_seconds = _seconds(row["timeout_seconds"])
    parameters: dict[str, Any] = {name: value for name, value in row.items() if name not in COLUMNS}
    branch.parameters = {**branch.parameters, **parameters}
    url = row.get("url") or (None if found else "")
    if url is not None:
        branch.url = url
    branch.full_clean(exclude=["system"])
    check(branch, url)
    branch.save()
    return found is None


def _seconds(text: str) -> int | None:
    if text and not text.isdecimal():
        raise ValidationError(f"timeout_seconds is {text!r}, and must be a whole number.")
    return int(text) if text else None
