"""Synced models that only one test has: their tables, their capture, and everything that was made from them."""

import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connection, models

from sync import declare
from sync.install import after_migrate
from tests.integration.sync_support import sql

Model = type[models.Model]


def model(called: str, /, **fields: Any) -> Model:
    """A model with an `id` and these fields. It is not declared yet."""
    meta = type("Meta", (), {"app_label": "entities"})
    key = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    members = {"id": key, **fields, "Meta": meta, "__module__": "entities.models"}
    return type(called, (models.Model,), members)


def key_to(target: Any, *, null: bool = False, on_delete: Any = models.CASCADE) -> "models.ForeignKey[Any, Any]":
    return models.ForeignKey(target, on_delete, null=null, related_name="+")


@contextmanager
def installed(made: Sequence[Model]) -> Iterator[None]:
    """Have these models, declared already, in the database."""
    before = dict(declare._declarations), dict(declare._grantings)
    _swap(declare._declarations, before[0])
    try:
        with connection.schema_editor() as editor:
            for each in made:
                editor.create_model(each)
        after_migrate()
        yield
    finally:
        names = [name for name, each in before[0].items() if each.model in made]
        labels = {label for label, each in before[1].items() if each.model in made}
        _swap(declare._declarations, {name: each for name, each in before[0].items() if name not in names})
        _swap(declare._grantings, {label: each for label, each in before[1].items() if label not in labels})
        after_migrate()
        with connection.schema_editor() as editor:
            for each in reversed(made):
                editor.delete_model(each)
        for each in made:
            del apps.all_models["entities"][each.__name__.lower()]
        apps.clear_cache()
        sql("DELETE FROM sync_feed WHERE entity = ANY (%s)", [names])
        sql("DELETE FROM sync_history WHERE entity = ANY (%s)", [names])


def _swap(registry: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Put this into a registry of declarations, and forget what was made from the others."""
    registry.clear()
    registry.update(wanted)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"sync", "legacy"}:
            for each in vars(module).values():
                if callable(getattr(each, "cache_clear", None)):
                    each.cache_clear()
