"""Random models with random scopes: what the slices are cut from."""

from dataclasses import dataclass
from random import Random
from typing import Any

from django.db import models

from sync.declare import Scope, synced
from sync.sql import quote
from tests.integration.model_support import Model, key_to, model

NAMES = ("Alpha", "Beta", "Gamma", "Delta", "Epsilon")
KINDS = ("a", "b", "c")


@dataclass
class Kind:
    """One model: its keys to others by name, its rules, and whether it syncs."""

    model: Model
    keys: dict[str, "Kind"]
    rules: list[tuple[str, str | None]]
    synced: bool

    @property
    def entity(self) -> str:
        return self.model.__name__.lower()

    @property
    def table(self) -> str:
        return quote(self.model._meta.db_table)


def a_token(rng: Random, what: str = "shown") -> str:
    return f"{what}-{rng.getrandbits(48):012x}"


def random_kinds(rng: Random) -> list[Kind]:
    """Three to five models, each with keys to some before it and perhaps to itself; one may not sync, but be passed."""
    kinds: list[Kind] = []
    for name in NAMES[: rng.randint(3, 5)]:
        targets = rng.sample(kinds, min(len(kinds), rng.randint(1, 2)))
        keys = {f"to_{each.entity}": each for each in targets}
        fields: dict[str, Any] = {
            key: key_to(each.model, null=rng.random() < 0.3, on_delete=models.CASCADE) for key, each in keys.items()
        }
        if rng.random() < 0.3:
            fields["above"] = key_to("self", null=True, on_delete=models.SET_NULL)
        made = model(
            name,
            label=models.CharField(max_length=40),
            kind=models.CharField(max_length=5),
            secret=models.CharField(max_length=40, default=""),
            **fields,
        )
        kind = Kind(made, keys, [], synced=not (kinds and rng.random() < 0.15))
        if "above" in fields:
            kind.keys["above"] = kind
        kinds.append(kind)
    if not any(kind.synced for kind in kinds[1:]):
        kinds[-1].synced = True
    for kind in kinds:
        kind.rules = [a_rule(rng, kind) for _ in range(rng.choice((1, 1, 2, 3)))]
        if kind.synced:
            synced(scopes=[Scope(name, path) for name, path in kind.rules], hidden=["secret"])(kind.model)
    return kinds


def a_rule(rng: Random, kind: Kind, along: bool = False) -> tuple[str, str | None]:
    """The name of a scope, which says what its values are, and the path to them. `along`: a key at least."""
    if not along and rng.random() < 0.08:
        return "all", None
    names: list[str] = []
    at = kind
    while at.keys and len(names) < 3 and (rng.random() < 0.7 or (along and not names)):
        key = rng.choice(sorted(at.keys))
        names.append(key)
        at = at.keys[key]
    ends = ["kind", "id", *(f"{key}_id" for key in sorted(at.keys))]
    last = rng.choice(["kind", *ends])
    about = at.keys[last.removesuffix("_id")].entity if last.endswith("_id") else at.entity
    return ("kind" if last == "kind" else f"in_{about}"), "__".join((*names, last))
