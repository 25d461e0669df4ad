"""Hand-written SQL stands in named blocks of `.sql` files: `-- name: one_word`, a comment, the statement."""

import re
from functools import cache
from pathlib import Path

from django.db import connection

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.M)


@cache
def blocks(file: str) -> dict[str, str]:
    """The named blocks of `sync/<file>`, by name."""
    parts = _BLOCK.split((Path(__file__).parent / file).read_text())
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def block(file: str, name: str, **parts: str) -> str:
    """A block with each `{{part}}` replaced. The parts are SQL made from declarations, never from a request."""
    sql = blocks(file)[name]
    for key, value in parts.items():
        sql = sql.replace("{{" + key + "}}", value)
    assert "{{" not in sql, f"{file}:{name} has a part that was not given"
    return sql


def quote(identifier: str) -> str:
    """A quoted SQL identifier."""
    return connection.ops.quote_name(identifier)


def literal(text: str) -> str:
    """A quoted SQL string."""
    return "'" + text.replace("'", "''") + "'"
