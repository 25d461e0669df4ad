"""Mutations as they come over the wire. No Django: `sync.checker` holds them against their model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from syncserver.errors import REJECTIONS, Problem

EMPTY = msgspec.Raw(b"{}")
REVISION_MAX = 2**63 - 1
NAME_CHARS_MAX = 200  # of a field or an entity that there is not, which may be as long as a body


UUID_PATTERN = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
# Text, since a batch has thousands of ids that are only compared and handed on; UUID objects cost five times as much.
Id = Annotated[str, msgspec.Meta(pattern=UUID_PATTERN, max_length=36)]  # as "$" lets a line feed follow


Op = Literal["create", "update", "delete"]


class Mutation(msgspec.Struct, forbid_unknown_fields=True):
    """One change that a device made. `set` and `add` stay unread until the entity is known. Ids are lower-case.

    `lost`: it is of before a restore, with the revision that it had then (0: it was not pushed before it).
    """

    id: str
    entity: str
    row: str
    op: Op
    base: Annotated[int, msgspec.Meta(ge=1, le=REVISION_MAX)] | None = None
    set: msgspec.Raw = EMPTY
    add: msgspec.Raw = EMPTY
    group: str | None = None
    made_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    lost: Annotated[int, msgspec.Meta(ge=0, le=REVISION_MAX)] | None = None

    def digest(self, values: Values) -> str:
        """What is the same when a mutation is sent again, whatever its white space and the order of its keys: 128 bits.

        `values` are its checked values, none for a mutation that failed the check.
        """
        fields = values.fields or _content(self.set)
        amounts = values.amounts or _content(self.add)
        content = (self.entity, self.row, self.op, self.base, fields, amounts, self.group, self.made_at)
        return hashlib.blake2b(_canonical.encode(content), digest_size=16).hexdigest()


class _AnyCase(Mutation):
    """The same with its ids checked, each by a pattern, and made lower-case: three times the cost of all the rest."""

    id: Id
    row: Id
    group: Id | None = None

    def __post_init__(self) -> None:
        self.id = self.id.lower()
        self.row = self.row.lower()
        if self.group is not None:
            self.group = self.group.lower()


class Batch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of a push. `token`: how far the device has read, so that it is told of a restore first."""

    mutations: Sequence[Mutation]
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    token: str | None = None


class _AnyCaseBatch(Batch, forbid_unknown_fields=True, frozen=True):
    mutations: Sequence[_AnyCase]


class Error(msgspec.Struct, frozen=True):
    """Why a mutation was rejected: the field (None: the mutation as a whole), a stable code, a sentence."""

    field: str | None
    code: str
    message: str


def error(code: str, field: str | None = None, message: str | None = None) -> Error:
    """An error with the catalogue's message, or a better one. A field's name may be what a device made up."""
    return Error(told_name(field) if field else field, code, message or REJECTIONS[code])


def told_name(name: str) -> str:
    """A name that a device may have made up, as it is told and kept."""
    return name[:NAME_CHARS_MAX].replace("\x00", "\ufffd")


def _content(members: msgspec.Raw) -> object:
    """What an object holds; its text where that cannot be told."""
    if members == EMPTY:
        return {}
    try:
        return msgspec.json.decode(members)
    except (msgspec.DecodeError, RecursionError):
        return bytes(members).decode()


_canonical = msgspec.json.Encoder(order="deterministic")
_batch_decoder = msgspec.json.Decoder(Batch)
_any_case_decoder = msgspec.json.Decoder(_AnyCaseBatch)
_ID_LENGTH = 36
_LOWER_IDS = re.compile("(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12},)*")
_ESCAPES = re.compile(rb"\\(?:u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*|.)", re.S)


def parse_batch(body: bytes, mutations_max: int) -> Batch:
    """The batch of a request body. Raises Problem: invalid_json, invalid_request, unknown_field, batch_too_large."""
    try:
        body.decode()  # the decoder passes over `set` and `add`, whatever bytes they hold
        try:
            batch = _decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            batch = _decode(_ESCAPES.sub(_without_lone_surrogates, body))
    except msgspec.ValidationError as problem:
        raise _problem(str(problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Problem("invalid_json", f"The body is not JSON in UTF-8: {problem}.") from None
    if len(batch.mutations) > mutations_max:
        raise Problem(
            "batch_too_large", f"A batch holds at most {mutations_max} mutations, not {len(batch.mutations)}."
        )
    for mutation in batch.mutations:
        if bytes(mutation.set)[:1] != b"{" or (mutation.add is not EMPTY and bytes(mutation.add)[:1] != b"{"):
            raise Problem("invalid_request", f"`set` and `add` of mutation {mutation.id} must be objects.")
    return batch


def _decode(body: bytes) -> Batch:
    """The batch, with ids that are ids: looked at all together where they are lower-case already, as nearly always."""
    batch = _batch_decoder.decode(body)
    ids = [id for m in batch.mutations for id in (m.id, m.row)] + [
        m.group for m in batch.mutations if m.group is not None
    ]
    joined = ",".join([*ids, ""])
    if _LOWER_IDS.fullmatch(joined) and len(joined) == len(ids) * (_ID_LENGTH + 1):
        return batch
    return _any_case_decoder.decode(body)


def _problem(message: str) -> Problem:
    unknown = re.search(r"unknown field `(.*?)`", message)
    return Problem("unknown_field" if unknown else "invalid_request", f"{message}.")


def _without_lone_surrogates(escapes: re.Match[bytes]) -> bytes:
    """Half a character cannot be stored. As NUL it is refused with its field, and the rest of the batch goes on."""
    text = escapes[0]
    if not text.startswith(b"\\u"):
        return text
    units = [text[i : i + 6] for i in range(0, len(text), 6)]
    kinds = [int(unit[2:], 16) >> 10 for unit in units]
    at = 0
    while at < len(units):
        if kinds[at] == 0x36 and at + 1 < len(units) and kinds[at + 1] == 0x37:
            at += 1
        elif kinds[at] in {0x36, 0x37}:
            units[at] = b"\\u0000"
        at += 1
    return b"".join(units)


class Values(msgspec.Struct, frozen=True, gc=False):
    """The checked content of a mutation in wire form, by field name."""

    fields: Mapping[str, Any]
    amounts: Mapping[str, Any]


NO_VALUES = Values({}, {})
