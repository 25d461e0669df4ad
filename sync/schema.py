"""`/sync/schema`: what a device must know to keep a replica, as JSON and as SQLite DDL."""

import hashlib
from functools import cache
from typing import Any

import msgspec
from django.utils.http import quote_etag

from sync.sqlite_ddl import sqlite_ddl
from sync.wire import PROTOCOL, Entity, Field, entities


@cache
def schema() -> dict[str, Any]:
    """The schema document; `schema` is a hash of everything else in it."""
    described = [_entity(entity) for entity in entities().values()]
    digest = hashlib.sha256(msgspec.json.encode([PROTOCOL, described])).hexdigest()[:32]
    return {"protocol": PROTOCOL, "schema": digest, "entities": described}


@cache
def schema_as(kind: str) -> tuple[bytes, str]:
    """The schema as `json` or `sqlite`, and an entity tag that changes when a byte of it does."""
    body = msgspec.json.encode(schema()) if kind == "json" else sqlite_ddl(schema()).encode()
    return body, quote_etag(hashlib.sha256(body).hexdigest()[:32])


def _entity(entity: Entity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "label": str(entity.model._meta.verbose_name).capitalize(),
        "writable": entity.declaration.writable,
        "conflict": policy if isinstance(policy := entity.declaration.conflict, str) else "function",
        "fields": [_field(field) for field in entity.fields],
    }


def _field(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": field.type,
        "nullable": field.nullable,
        "max_length": field.max_length,
        "choices": list(field.choices) if field.choices else None,
        "references": field.references,
        "read_only": field.read_only,
        "default": field.default,
        "counter": field.counter,
    }
