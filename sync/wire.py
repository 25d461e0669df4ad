"""What a synced model looks like on the wire: its fields, their types, and the SQL that writes a row as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import Any

from django.db import connection, models

from sync.declare import Declaration, declarations
from sync.merge import CONFLICT_POLICIES, DELETE_POLICIES
from sync.paths import BadPath, Path, path_of
from sync.sql import literal, quote

PROTOCOL = 1
INTEGER_SAFE_MAX = 2**53  # a larger one travels as a string, since many devices read JSON numbers as doubles
RESERVED_NAMES = frozenset({"id", "_rev"})

_TYPES: dict[type[models.Field[Any, Any]], str] = {
    models.BooleanField: "boolean",
    models.IntegerField: "integer",
    models.FloatField: "real",
    models.DecimalField: "decimal",
    models.DateTimeField: "datetime",
    models.DateField: "date",
    models.TimeField: "time",
    models.UUIDField: "uuid",
    models.JSONField: "json",
    models.BinaryField: "binary",
    models.CharField: "text",
    models.TextField: "text",
    models.GenericIPAddressField: "text",
}
# SQL of one column `c` in its wire form, inside row_to_json. Types that are not here are right as they are.
_WIRE_SQL = {
    "decimal": "{c}::text",
    "datetime": """to_char({c} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
    "time": "to_char({c}, 'HH24:MI:SS.US')",
    "binary": "translate(encode({c}, 'base64'), E'\\n', '')",
}


@dataclass(frozen=True)
class Field:
    """One field of an entity on the wire; `name` is also its name in Python, `column` in the database."""

    name: str
    column: str
    type: str
    db_type: str
    nullable: bool
    max_length: int | None
    choices: tuple[str | int, ...] | None
    references: str | None
    read_only: bool
    counter: bool
    default: Any
    model_field: models.Field[Any, Any]

    def sql(self, row: str) -> str:
        """The SQL of this field's wire form, from the row called `row`."""
        column = f"{row}.{quote(self.column)}"
        if self.type == "integer" and self.db_type == "bigint":
            safe = f"BETWEEN -{INTEGER_SAFE_MAX} AND {INTEGER_SAFE_MAX}"
            return f"CASE WHEN {column} {safe} THEN to_json({column}) ELSE to_json({column}::text) END"
        return _WIRE_SQL.get(self.type, "{c}").format(c=column)


@dataclass(frozen=True, eq=False)
class Entity:
    """A declared model with everything derived from it. `fields` leaves out `id` and what is hidden."""

    declaration: Declaration
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        return self.declaration.entity

    @property
    def model(self) -> type[models.Model]:
        return self.declaration.model

    @property
    def table(self) -> str:
        return quote(self.model._meta.db_table)

    @property
    def writable_fields(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if not field.read_only)

    def row_sql(self, row: str, rev: str) -> str:
        """The row called `row` on the wire, as JSON, with `rev` as its revision."""
        fields = ", ".join(f"{field.sql(row)} AS {quote(field.name)}" for field in self.fields)
        return f'row_to_json((SELECT w FROM (SELECT {row}.id, {rev} AS "_rev", {fields}) w))'

    def hidden_sql(self, row: str) -> str:
        """The columns of the row called `row` that devices never see, as JSON in wire form; NULL where all are seen."""
        shown = {field.column for field in self.fields}
        hidden = [f for f in self.model._meta.concrete_fields if not f.primary_key and column_of(f) not in shown]
        if not hidden:
            return "NULL::json"
        members = ", ".join(
            f"{literal(f.attname)}, "
            + _WIRE_SQL.get(wire_type(f) or "", _as_text(f)).format(c=f"{row}.{quote(column_of(f))}")
            for f in hidden
        )
        return f"json_build_object({members})"

    def columns_sql(self, row: str) -> str:
        """The columns that the wire form and the scopes of the row called `row` are made from."""
        columns = {quote(field.column) for field in self.fields} | {path.own_column for path in self.paths}
        return ", ".join(f"{row}.{column}" for column in sorted(columns))

    def scopes_sql(self, row: str) -> str:
        """A text[] of the scopes of a row; one that no rule gives a scope is in `''`, which nobody is granted."""
        rules = self.declaration.scopes
        if not self.paths:
            return f"ARRAY[{', '.join(literal(name) for name in sorted({rule.name for rule in rules}))}]"
        values = ", ".join(
            f"({literal(rule.name)})"
            if rule.path is None
            else f"({literal(rule.name + ':')} || {path_of(self.model, rule.path).value_sql(row)})"
            for rule in rules
        )
        if len(rules) == 1:
            return f"ARRAY[coalesce({values}, '')]"
        # In the order of the feed's own column, whatever that of the database, or of a column that gives a scope, is.
        scope = 's.scope COLLATE "C"'
        found = f"SELECT DISTINCT {scope} FROM (VALUES {values}) s(scope) WHERE s.scope IS NOT NULL ORDER BY 1"
        return f"coalesce(nullif(ARRAY({found}), '{{}}'), ARRAY[''])"

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Where the values of its scopes stand."""
        return tuple(path_of(self.model, rule.path) for rule in self.declaration.scopes if rule.path is not None)

    def field(self, name: str) -> Field | None:
        return self._by_name.get(name)

    def column(self, name: str) -> Field:
        """A field of the model, whether devices see it or not. Raises StopIteration where there is none."""
        if shown := self.field(name):
            return shown
        return _field(next(f for f in self.model._meta.concrete_fields if f.attname == name), self.declaration, {})

    def callable_default(self, name: str) -> bool:
        """Whether each new row gets a value of its own in this column."""
        return any(
            f.attname == name and f.has_default() and callable(f.default) for f in self.model._meta.concrete_fields
        )

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}


def _as_text(field: models.Field[Any, Any]) -> str:
    """The SQL of a column that is right as it is in JSON, or else as text."""
    return "{c}" if wire_type(field) else "{c}::text"


def column_of(field: models.Field[Any, Any]) -> str:
    """The column of a concrete field."""
    assert field.column is not None
    return field.column


def wire_type(field: models.Field[Any, Any]) -> str | None:
    """The wire type of a model field (of the key it refers to, for a foreign key); None when it has none."""
    if isinstance(field, models.ForeignKey):
        return wire_type(field.target_field)
    return next((_TYPES[kind] for kind in type(field).__mro__ if kind in _TYPES), None)


_making = Lock()  # threads that ask first, and at once, get the same objects


def entities() -> dict[str, Entity]:
    """Every synced entity by name, each after the entities that its rows refer to (cycles in order of declaration)."""
    with _making:
        return _entities()


@cache
def _entities() -> dict[str, Entity]:
    by_model = {d.model: d.entity for d in declarations()}
    waiting = {d.entity: Entity(d, tuple(_fields(d, by_model))) for d in declarations()}
    ordered: dict[str, Entity] = {}

    def place(entity: Entity, above: frozenset[str]) -> None:
        for field in entity.fields:
            if field.references and field.references not in above | ordered.keys():
                place(waiting[field.references], above | {entity.name})
        ordered.setdefault(entity.name, entity)

    for entity in waiting.values():
        if entity.name not in ordered:
            place(entity, frozenset({entity.name}))
    return ordered


def _fields(declaration: Declaration, by_model: dict[type[models.Model], str]) -> list[Field]:
    return [
        _field(field, declaration, by_model)
        for field in declaration.model._meta.concrete_fields
        if not field.primary_key and field.attname not in declaration.hidden and wire_type(field)
    ]


def _field(field: models.Field[Any, Any], declaration: Declaration, by_model: dict[type[models.Model], str]) -> Field:
    kind = wire_type(field)
    assert kind is not None
    choices = tuple(value for value, _ in field.flatchoices) or None
    has_default = field.has_default() and not callable(field.default)
    automatic = field.generated or getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    return Field(
        name=field.attname,
        column=column_of(field),
        type=kind,
        db_type=(field.db_type(connection) or "").split("(")[0],
        nullable=field.null,
        max_length=field.max_length if kind == "text" else None,
        choices=choices,
        references=by_model.get(field.related_model) if isinstance(field, models.ForeignKey) else None,
        read_only=not declaration.writable or automatic or field.attname in declaration.read_only,
        counter=field.attname in declaration.counters,
        default=_wire_default(kind, field.default) if has_default else None,
        model_field=field,
    )


def _wire_default(kind: str, value: Any) -> Any:
    if value is None or kind in {"boolean", "integer", "real", "json"}:
        return value
    return str(value)


def declaration_errors(declaration: Declaration) -> list[str]:
    """What is wrong with a declaration, a sentence each."""
    meta = declaration.model._meta
    names = {field.attname: field for field in meta.concrete_fields}
    errors = []
    if not isinstance(meta.pk, models.UUIDField) or meta.pk.name != "id":
        errors.append("needs a UUIDField `id` as its primary key, so that a device can make a row while offline")
    for option in ("counters", "read_only", "hidden"):
        errors += [
            f"{option} names {name!r}, which is no column (a foreign key is named with its `_id`)"
            for name in sorted(getattr(declaration, option) - names.keys())
        ]
    for rule in declaration.scopes:
        try:
            if rule.path is not None:
                path_of(declaration.model, rule.path)
        except BadPath as problem:
            errors.append(f"scope {rule.name!r} {problem}")
    if not declaration.scopes:
        errors.append("has no scope, so no device could ever have its rows")
    errors += [f"scope name {rule.name!r} may not hold ':'" for rule in declaration.scopes if ":" in rule.name]
    visible = [f for f in meta.concrete_fields if not f.primary_key and f.attname not in declaration.hidden]
    if not visible:
        errors.append("has no field besides `id` that devices may see")
    errors += [
        f"field {f.attname!r} ({type(f).__name__}) has no wire type; hide it" for f in visible if wire_type(f) is None
    ]
    errors += [f"field name {f.attname!r} is reserved" for f in visible if f.attname in RESERVED_NAMES]
    errors += [
        f"counter {name!r} must be an integer or a decimal"
        for name in sorted(declaration.counters & names.keys())
        if wire_type(names[name]) not in {"integer", "decimal"}
    ]
    return errors + _conflict_errors(declaration, {f.attname for f in visible})


def _conflict_errors(declaration: Declaration, fields: set[str]) -> list[str]:
    errors = [
        f"conflict policy {policy!r} is none of {', '.join(CONFLICT_POLICIES)}, and no function"
        for policy in (declaration.conflict, *declaration.conflict_fields.values())
        if not callable(policy) and policy not in CONFLICT_POLICIES
    ]
    if declaration.delete_conflict not in DELETE_POLICIES:
        errors.append(f"delete_conflict {declaration.delete_conflict!r} is none of {', '.join(DELETE_POLICIES)}")
    together = [name for unit in declaration.units for name in unit]
    errors += [
        f"{option} names {name!r}, which is no field that devices see"
        for option, found in (("conflict_fields", declaration.conflict_fields), ("units", together))
        for name in sorted(set(found) - fields)
    ]
    errors += [f"field {name!r} is in units twice" for name in sorted(set(together)) if together.count(name) > 1]
    return errors + [
        f"the fields of unit {', '.join(unit)} have different conflict policies"
        for unit in declaration.units
        if len({declaration.conflict_fields.get(name, declaration.conflict) for name in unit}) > 1
    ]


@cache
def references_of(entity: Entity) -> tuple[Field, ...]:
    return tuple(field for field in entity.fields if field.references)


__all__ = ["Entity", "Field", "declaration_errors", "entities", "references_of", "wire_type"]
