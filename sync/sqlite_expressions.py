"""SQL expressions of a device replica's triggers: a column's value in wire form, what changed, and by how much.

Pure text building, for SQLite's own functions only: an application's connection needs none of ours.
A field is one of the document of `GET /sync/schema`.
"""

from collections.abc import Callable, Iterable
from typing import Any

Field = dict[str, Any]


def differences(fields: list[Field], changed: Callable[[Field], str], old: Callable[[Field], str]) -> tuple[str, str]:
    """Two expressions, `set` and `add`, each JSON text or NULL when empty. What a counter cannot add exactly is set."""
    sets, adds = [], []
    for field in fields:
        new = column("NEW", field)
        condition = changed(field)
        if field.get("counter") and field["type"] in _DIFFERENCE:
            exact, amount = _DIFFERENCE[field["type"]](new, old(field))
            adds.append((f"{condition} AND {exact}", field["name"], wire(field, amount)))
            condition += f" AND NOT coalesce({exact}, 0)"
        sets.append((condition, field["name"], wire(field, new)))
    return f"nullif({json_object(sets)}, '{{}}')", f"nullif({json_object(adds)}, '{{}}')" if adds else "NULL"


def json_object(members: Iterable[tuple[str, str, str]]) -> str:
    """A JSON object as text, of (condition, name, JSON text); a condition "1" always holds.

    Concatenated, since SQLite's functions take 100 arguments at most.
    """
    pieces = []
    for condition, name, value in members:
        piece = f"',\"{name}\":' || {value}"
        pieces.append(piece if condition == "1" else f"CASE WHEN {condition} THEN {piece} ELSE '' END")
    return f"'{{' || substr({joined(pieces, ' || ')}, 2) || '}}'" if pieces else "'{}'"


def joined(terms: list[str], operator: str) -> str:
    """`terms` joined two levels deep: SQLite limits the depth of an expression (1,000) and of brackets (100)."""
    chunks = [operator.join(terms[i : i + 40]) for i in range(0, len(terms), 40)]
    return operator.join(f"({chunk})" for chunk in chunks) if len(chunks) > 1 else chunks[0]


def column(row: str | None, field: Field) -> str:
    return f'{row}."{field["name"]}"' if row else f'"{field["name"]}"'


def wire(field: Field, value: str) -> str:
    """JSON text of a column's value, as the protocol wants it.

    What is not of the type goes as it is: the server says why not. An amount travels like a value of its field.
    """
    match field["type"]:
        case "boolean":
            return f"CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {_quoted(value)} END"
        case "integer":
            return (
                f"CASE WHEN typeof({value}) = 'integer' AND {value} NOT BETWEEN -9007199254740992 AND 9007199254740992"
                f" THEN '\"' || {value} || '\"' ELSE {_quoted(value)} END"
            )
        case "real":
            # 15 digits where they are enough, else 17: json_quote() always writes 15 and loses the last bits.
            return (
                f"CASE WHEN typeof({value}) <> 'real' OR CAST(json_quote({value}) AS REAL) = {value}"
                f" THEN json_quote({value}) WHEN abs({value}) > 1.7976931348623157e308 THEN json_quote({value} || '')"
                f" ELSE printf('%!.17g', {value}) END"
            )
        case "datetime":
            # SQLite's datetime() and most languages leave the zone of a UTC time out.
            return (
                f"json_quote(CASE WHEN {value} GLOB '????-??-??[ T]??:??:??*'"
                f" AND substr({value}, 20) NOT GLOB '*[-+Zz]*' THEN replace({value}, ' ', 'T') || 'Z' ELSE {value} END)"
            )
        case "json":
            return f"coalesce(json({value}), 'null')"
        case "binary":
            return f"json_quote({_base64(value)})"
        case _:
            return f"json_quote({value})"


def _quoted(value: str) -> str:
    """JSON of what should have been a whole number: JSON has no infinity, so that goes as text, and is refused."""
    return (
        f"CASE WHEN typeof({value}) = 'real' AND abs({value}) > 1.7976931348623157e308 THEN json_quote({value} || '')"
        f" ELSE json_quote({value}) END"
    )


def comparable(field: Field, value: str) -> str:
    """As `wire`, to compare only. Base64 would read a stored blob anew for every three bytes of it."""
    if field["type"] == "binary":
        return f"json_quote(CASE WHEN {value} IS NOT NULL THEN hex({value}) END)"
    return wire(field, value)


def unequal_decimals(new: str, old: str) -> str:
    """Not merely written otherwise: 12.50, read as a number and written back as 12.5, is no edit."""
    return (
        f"({new} IS NOT {old} AND ({new} IS NULL OR {old} IS NULL"
        f" OR max(length({new}), length({old})) > 15 OR {new} + 0 <> {old} + 0))"
    )


def _base64(value: str) -> str:
    """Base64 text of a blob with SQLite's own functions only: three bytes at a time."""

    def sextet(shift: int) -> str:
        return f"substr('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 1 + (v >> {shift} & 63), 1)"

    def nibble(digit: int) -> str:
        return f"instr('123456789ABCDEF', substr(h, {digit}, 1)) << {24 - 4 * digit}"

    starts = f"json_each('[' || substr(replace(hex(zeroblob((length({value}) + 2) / 3)), '00', ',0'), 2) || ']')"
    triples = f"SELECT substr({value}, 1 + 3 * key, 3) AS b FROM {starts}"
    digits = f"SELECT length(b) AS n, hex(b) || '0000' AS h FROM ({triples})"
    numbers = f"SELECT n, {' | '.join(f'({nibble(d)})' for d in range(1, 7))} AS v FROM ({digits})"
    third = f"CASE WHEN n > 1 THEN {sextet(6)} ELSE '=' END"
    fourth = f"CASE WHEN n > 2 THEN {sextet(0)} ELSE '=' END"
    text = (
        f"SELECT coalesce(group_concat({sextet(18)} || {sextet(12)} || {third} || {fourth}, ''), '') FROM ({numbers})"
    )
    return f"CASE WHEN typeof({value}) = 'blob' THEN ({text}) ELSE {value} END"


def _integer_difference(new: str, old: str) -> tuple[str, str]:
    exact = f"typeof({new}) = 'integer' AND typeof({old}) = 'integer' AND typeof({new} - {old}) = 'integer'"
    return exact, f"({new} - {old})"


def _decimal_difference(new: str, old: str) -> tuple[str, str]:
    """Exact up to 18 digits: both numbers as integers of the finer one's scale, never through a binary float."""

    def places(value: str) -> str:
        return f"(CASE instr({value}, '.') WHEN 0 THEN 0 ELSE length({value}) - instr({value}, '.') END)"

    def scaled(value: str) -> str:
        return f"(replace({value}, '.', '') || substr('000000000000000000', 1, s - {places(value)}))"

    def plain(value: str) -> str:
        return (
            f"{value} GLOB '*[0-9]*' AND {value} NOT GLOB '*[^-0-9.]*'"
            f" AND {value} NOT GLOB '?*-*' AND {value} NOT GLOB '*.*.*'"
        )

    scale = f"(SELECT max({places(new)}, {places(old)}) AS s)"
    exact = (
        f"{plain(new)} AND {plain(old)}"
        f" AND (SELECT max(length({scaled(new)}), length({scaled(old)})) <= 18 FROM {scale})"
    )
    amount = (
        "(SELECT CASE WHEN d < 0 THEN '-' ELSE '' END || CASE s WHEN 0 THEN abs(d) ELSE"
        " substr(p, 1, length(p) - s) || '.' || substr(p, -s) END"
        " FROM (SELECT s, d, printf('%0*d', s + 1, abs(d)) AS p"
        f" FROM (SELECT s, CAST({scaled(new)} AS INTEGER) - CAST({scaled(old)} AS INTEGER) AS d FROM {scale})))"
    )
    return exact, amount


_DIFFERENCE = {"integer": _integer_difference, "decimal": _decimal_difference}
