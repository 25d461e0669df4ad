"""How each entity is merged, from its declaration: the rules that `sync.merge` works by."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec
from django.db import connection

from sync.checker import checker
from sync.merge import ASK, Ask, Resolver, Rules, policy_name
from sync.mutation import Mutation, Values
from sync.wire import Entity

log = logging.getLogger(__name__)


@cache
def rules_of(entity: Entity) -> Rules:
    """The rules of an entity. Only fields that devices may write can come into dispute."""
    declared = entity.declaration
    names = [field.name for field in entity.writable_fields]
    guarded: dict[Any, Any] = {}
    for policy in (declared.conflict, *declared.conflict_fields.values()):
        guarded[policy] = policy if isinstance(policy, str) else _guarded(entity, policy)
    return Rules(
        policies={name: guarded[declared.conflict_fields.get(name, declared.conflict)] for name in names},
        units={name: unit for unit in declared.units for name in unit},
        kinds={field.name: field.type for field in entity.fields},
        delete=declared.delete_conflict,
        counters=declared.counters,
    )


def _refused(*_query: object) -> None:
    """A query that fails would take the whole push with it; one that waits would hold its locks."""
    raise RuntimeError("A conflict policy decides by what it is given, and may not ask the database.")


def _guarded(entity: Entity, resolver: Resolver) -> Resolver:
    """A deployment's function, held to its word: what fails or is not valid is left to a person."""

    name = policy_name(resolver)

    def decide(
        base: Mapping[str, Any] | None, server: Mapping[str, Any], device: Mapping[str, Any]
    ) -> Mapping[str, Any] | Ask:
        try:
            with connection.execute_wrapper(_refused):
                answer = resolver(*deepcopy((base, server, device)))  # what it does to them changes nothing
            if isinstance(answer, Ask):
                return answer
            values = msgspec.json.encode(dict(answer))
        except Exception:
            log.exception("The conflict policy %s failed; a person decides", name)
            return ASK
        found = checker(entity).check(Mutation("", entity.name, "", "update", set=msgspec.Raw(values)))
        if isinstance(found, Values) and found.fields.keys() <= server.keys():
            return found.fields
        errors = found if isinstance(found, list) else "a field that was not in dispute"
        log.error("The conflict policy %s gave no valid values; a person decides: %s", name, errors)
        return ASK

    decide.__name__ = name
    return decide
