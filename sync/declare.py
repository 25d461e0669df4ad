"""The declaration that stands next to a model and says how its rows sync, or what they grant.

    @synced(scopes=[scope("employee", "order__employee_id")], counters=["quantity"], hidden=["cost"])
    class OrderLine(models.Model): ...

This module only records what was declared; `sync.wire` reads the model's fields once the applications are loaded.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from django.db import models

from sync.merge import ASK, Ask, Policy

M = TypeVar("M", bound=type[models.Model])

GLOBAL = "global"


@dataclass(frozen=True)
class Scope:
    """A rule that puts a row into a scope: `name` alone, or `name:<value at path>` (none where it is NULL)."""

    name: str
    path: str | None = None


@dataclass(frozen=True)
class Declaration:
    """What `@synced` was given for one model. `entity` is the name on the wire, such as `order_line`."""

    entity: str
    model: type[models.Model]
    scopes: tuple[Scope, ...]
    conflict: Policy
    conflict_fields: Mapping[str, Policy]
    units: tuple[tuple[str, ...], ...]
    delete_conflict: str
    counters: frozenset[str]
    read_only: frozenset[str]
    hidden: frozenset[str]
    writable: bool


@dataclass(frozen=True)
class Granting:
    """What `@grants` was given: each row of `model` grants the scope `name:<value at path>` to the holder at `to`."""

    model: type[models.Model]
    name: str
    path: str | None
    to: str

    @property
    def label(self) -> str:
        """Such as `employee_territory.territory`: with the row's key behind it, where a grant comes from."""
        return f"{_snake_case(self.model.__name__)}.{self.name}"


_declarations: dict[str, Declaration] = {}
_grantings: dict[str, Granting] = {}


def scope(name: str, path: str | None = None) -> Scope:
    """The scope `name` for every row, or, with a `path`, the scope `name:<value>`.

    The path names a column of the row (`employee_id`), or leads there along foreign keys (`order__employee_id`): then
    the row follows the one that has the value into its scope.
    """
    return Scope(name, path)


def synced(
    *,
    scopes: Iterable[Scope] = (Scope(GLOBAL),),
    conflict: Policy = "server_wins",
    conflict_fields: Mapping[str, Policy] | None = None,
    units: Iterable[Iterable[str]] = (),
    delete_conflict: str = "edit_wins",
    counters: Iterable[str] = (),
    read_only: Iterable[str] = (),
    hidden: Iterable[str] = (),
    writable: bool = True,
) -> Callable[[M], M]:
    """Declare that the rows of a model sync with devices.

    `scopes`: who may have a row (it is in every scope that a rule gives it). `conflict`: what decides about a
    field that a device and others changed differently, one of CONFLICT_POLICIES or a function (`Resolver`);
    `conflict_fields`: the same for single fields. `units`: fields that mean something only together, such as street and
    city, and are decided as one. `delete_conflict`: what decides when one side deleted the row and the other edited it.
    `counters`: number fields that devices change by adding. `read_only`: fields that devices see but cannot write.
    `hidden`: fields that never leave the server. `writable=False`: devices cannot write the entity at all.
    Fields are named as their columns are in Python (`customer_id` for a foreign key `customer`). Mistakes in it are
    reported by `manage.py check`, with the name of the model.
    """

    def declare(model: M) -> M:
        entity = _snake_case(model.__name__)
        _declarations[entity] = Declaration(
            entity,
            model,
            tuple(scopes),
            conflict,
            dict(conflict_fields or {}),
            tuple(tuple(unit) for unit in units),
            delete_conflict,
            frozenset(counters),
            frozenset(read_only),
            frozenset(hidden),
            writable,
        )
        return model

    return declare


def grants(name: str, path: str | None = None, *, to: str) -> Callable[[M], M]:
    """Declare that each row of a model, synced or not, grants a scope for as long as it is there.

    `name` and `path` say which, as in `scope`; `to` is the path to a foreign key that names a user or a device. So
    `@grants("territory", "territory_id", to="employee__user_id")` on EmployeeTerritory. Whoever writes the rows, the
    grants follow with the same commit. Mistakes in it are reported by `manage.py check`.
    """

    def declare(model: M) -> M:
        granting = Granting(model, name, path, to)
        _grantings[granting.label] = granting
        return model

    return declare


def grantings() -> tuple[Granting, ...]:
    """Every `@grants` so far."""
    return tuple(_grantings.values())


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def declarations() -> tuple[Declaration, ...]:
    """Everything declared so far, in the order of declaration."""
    return tuple(_declarations.values())


__all__ = [
    "ASK",
    "GLOBAL",
    "Ask",
    "Declaration",
    "Granting",
    "Scope",
    "declarations",
    "grantings",
    "grants",
    "scope",
    "synced",
]
