"""Does what a guide says, block by block, in one terminal, and holds what it prints against what the guide shows.

A `sh` block is run, and the block without a language after it is its output; without one it prints nothing. A `python`
block that begins with `# <path>` becomes that file; any other one takes the place of what has the same names in it.
"""

import ast
import os
import pty
import re
import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.document_support import Block

MARK = "\x1e"  # before each step's output, with the time
COLUMN_THAT_DIFFERS = "unchanged"  # what is read again to be sure depends on how much time has gone by
MASKS = {
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}": "<id>",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "<time>",
    r"\d+ ?ms": "<ms>",
    r"[\d.]+ ?s ?beside": "<seconds> beside",
    r'"seconds": [\d.]+': '"seconds": <seconds>',
}


class Step(NamedTuple):
    """One command block with the files that were saved before it, and the output that the guide shows."""

    commands: str
    files: dict[str, str]
    shown: str


class Done(NamedTuple):
    printed: str
    seconds: float


def steps(blocks: Sequence[Block]) -> list[Step]:
    found: list[Step] = []
    files: dict[str, str] = {}
    path = ""
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            if begun := re.match(r"# (\S+)\n", text):
                path = begun[1]
                files[path] = text
            else:
                files[path] = replaced(files[path], text)
        elif language == "sh":
            after = blocks[number + 1] if number + 1 < len(blocks) else Block("sh", "")
            found.append(Step(text, dict(files), "" if after.language else after.text))
    return found


def replaced(module: str, part: str) -> str:
    """The module with the statements of a part: each in the place of the one like it, or before what follows it."""
    lines = module.splitlines()
    after = ""
    for statement in reversed(ast.parse(part).body):
        new = (ast.get_source_segment(part, statement) or "").splitlines()
        body = ast.parse("\n".join(lines)).body
        known = {_about(each): each for each in body}
        if there := known.get(_about(statement)):
            lines[there.lineno - 1 : there.end_lineno] = new
        elif isinstance(statement, ast.ImportFrom):
            first = next(each for each in body if isinstance(each, ast.ImportFrom)).lineno - 1
            lines[first:first] = new
        else:
            before = known[after].lineno - 1
            lines[before:before] = [*new, ""]
        after = _about(statement)
    return "\n".join(lines) + "\n"


def _about(statement: ast.stmt) -> str:
    match statement:
        case ast.ImportFrom():
            return f"import {statement.module}"
        case ast.Assign(targets=[ast.Name() as name]):
            return name.id
    return ""


def do(steps: Sequence[Step], folder: Path, environment: Mapping[str, str], seconds_max: float) -> list[Done]:
    """Run all of them in one bash on a terminal of 80 columns without colours."""
    script = ["trap 'kill $(jobs -p) 2> /dev/null' EXIT"]
    for number, step in enumerate(steps):
        for name, content in step.files.items():
            saved = folder / "saved" / str(number) / name
            saved.parent.mkdir(parents=True)
            saved.write_text(content)
            script.append(f"cp '{saved}' '{name}'")
        script += [f"printf '{MARK}%s\\n' $EPOCHREALTIME", step.commands]
    script.append(f"printf '{MARK}%s\\n' $EPOCHREALTIME")
    parts = _on_a_terminal("\n".join(script), folder, environment, seconds_max).split(MARK)[1:]
    times, printed = zip(*(part.split("\n", 1) for part in parts), strict=True)
    spans = [float(end) - float(begin) for begin, end in pairwise(times)]
    return [Done(*each) for each in zip(printed[:-1], spans, strict=True)]


def _on_a_terminal(script: str, folder: Path, environment: Mapping[str, str], seconds_max: float) -> str:
    ours, theirs = pty.openpty()
    terminal = {"TERM": "dumb", "DJANGO_COLORS": "nocolor", "PYTHONPATH": "", "LOG_LEVEL": "WARNING"}
    command = ["timeout", str(seconds_max), "bash", "-c", script]
    with subprocess.Popen(
        command, cwd=folder, env={**environment, **terminal}, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        read = b""
        try:
            while piece := os.read(ours, 65536):
                read += piece
        except OSError:  # how Linux says that nobody has the other end any more
            pass
    os.close(ours)
    return read.decode().replace("\r\n", "\n")


# --- What is the same ----------------------------------------------------------------------------------------------


def essence(output: str) -> list[str]:
    """Lines that are equal where the output says the same; of a table its cells, however wide and wrapped they are."""
    for pattern, mask in MASKS.items():
        output = re.sub(pattern, mask, output)
    lines: list[str] = []
    table: list[list[str]] = []
    for line in [*output.splitlines(), ""]:
        if line[:1] in "│┃" and line:
            _add(table, [cell.strip() for cell in re.split("[│┃]", line)[1:-1]], line[0] == "┃")
        elif not re.match("[├┏┡└]", line):
            lines += _told(table)
            table = []
            lines.append(" ".join(line.split()))
    return [line for line in lines if line]


def _add(table: list[list[str]], cells: list[str], header: bool) -> None:
    """A row, or the rest of the row before it: the first line of a row has something in the first cell."""
    if table and (not cells[0] if not header else len(table) == 1):
        table[-1] = [f"{before}{cell}" for before, cell in zip(table[-1], cells, strict=True)]
    else:
        table.append(cells)


def _told(table: list[list[str]]) -> list[str]:
    if not table:
        return []
    kept = [n for n, name in enumerate(table[0]) if name != COLUMN_THAT_DIFFERS]
    rows = [[re.sub(r"\s", "", row[n]) for n in kept] for row in table]
    return [" | ".join(row) for row in rows if any(row[1:])]
