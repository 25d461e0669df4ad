"""Every error that a client can see: its code, its HTTP status, its title and what to do next.

A refused request is answered as RFC 9457 `application/problem+json`, made from `PROBLEMS`. A refused mutation of a push
is told in its result's `errors`, with a code and a message from `REJECTIONS`. Codes never change their meaning.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of refused request. `advice` is one sentence for the client: retry, pull, mend or upgrade."""

    status: int
    title: str
    advice: str


PROBLEMS: Mapping[str, Entry] = {
    # The request itself
    "invalid_json": Entry(400, "The body is not JSON", "Mend the request: its body must be one JSON value in UTF-8."),
    "invalid_request": Entry(
        400, "The request is not valid", "Mend the request as the detail says; do not repeat it as it is."
    ),
    "unknown_field": Entry(
        400,
        "The body has an unknown member",
        "Mend the member's name, or upgrade the client to this server's protocol.",
    ),
    "invalid_encoding": Entry(
        400, "The compressed body is broken", "Send the whole body again, as one gzip member or one zstd frame."
    ),
    "invalid_token": Entry(
        400,
        "This server did not make the token",
        "Pull without a token: that loads everything afresh, after pushing the outbox.",
    ),
    "too_many_scopes": Entry(400, "Too many scopes", "Ask an administrator to grant fewer, wider scopes; then retry."),
    "body_too_large": Entry(413, "The body is too large", "Mend the request: send less in one call."),
    "batch_too_large": Entry(
        413, "The batch is too large", "Split the batch, keeping each group whole, and push the parts."
    ),
    "unsupported_media_type": Entry(
        415, "The body's media type is not supported", "Send the body as Content-Type: application/json."
    ),
    "unsupported_encoding": Entry(
        415,
        "The body's encoding is not supported",
        "Send the body uncompressed, or with Content-Encoding: zstd or gzip.",
    ),
    "not_acceptable": Entry(
        406, "No acceptable representation", "Mend the Accept header: it must allow what this endpoint sends."
    ),
    "method_not_allowed": Entry(
        405, "The method is not allowed", "Use one of the methods that the Allow header names."
    ),
    "not_found": Entry(404, "Not found", "Mend the address, or pull: what it named may have been deleted."),
    # Who is calling
    "unauthorized": Entry(
        401, "The device is not known", "Send Authorization: Bearer with the device's token, or enrol the device again."
    ),
    "device_revoked": Entry(
        401,
        "The device was revoked",
        "Stop syncing and, where wipe is true, delete the local data; ask an administrator.",
    ),
    "enrollment_refused": Entry(
        403,
        "The enrolment code is not accepted",
        "Ask an administrator for a new code: each works once, for a limited time.",
    ),
    "signature_refused": Entry(
        401,
        "The signature is not accepted",
        "Sign the very bytes of the body, now, with a secret that this server has for the system; then send it again.",
    ),
    "login_required": Entry(
        401, "Nobody is signed in", "Sign in to the admin, or send Authorization: Token with a token of your own."
    ),
    "forbidden": Entry(403, "Not allowed", "Do not repeat the request: ask an administrator for the permission."),
    "rate_limited": Entry(429, "Too many requests", "Retry after the number of seconds that Retry-After gives."),
    # Where the device stands
    "token_expired": Entry(
        410,
        "The token is too old, or of another database",
        "Push the outbox, then pull without a token and drop what did not come.",
    ),
    "not_current": Entry(
        409, "There are changes since the token", "Pull until has_more is false, then retry with the new token."
    ),
    # What a person decides
    "conflict_moved": Entry(
        409, "This is not what was shown", "Read it again, look at what has changed, and then decide."
    ),
    "change_refused": Entry(
        422, "The change breaks a rule", "Mend the values as errors says, field by field; nothing was written."
    ),
    # The server
    "internal_error": Entry(
        500, "The server failed", "Retry with growing pauses; if it stays, report the request id to the administrator."
    ),
    "service_unavailable": Entry(
        503, "The server is not ready", "Retry after the number of seconds that Retry-After gives; nothing was applied."
    ),
}

# What `Problem` answers for a status that no code was chosen for, such as one that Django itself refused.
CODE_BY_STATUS: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "service_unavailable",
}

# Why one mutation of a push was rejected, with the message that is sent unless the server knows a better one. The
# mutation stays in quarantine, where an administrator can mend and replay it; the device pulls on.
REJECTIONS: Mapping[str, str] = {
    "unknown_entity": "There is no such entity; upgrade the app.",
    "unknown_field": "The entity has no such field; upgrade the app.",
    "read_only_entity": "Devices cannot change rows of this entity.",
    "read_only_field": "Devices cannot change this field.",
    "forbidden_scope": "The row is, or would come to be, outside the scopes granted to this device.",
    "not_found": "There is no such row.",
    "already_exists": "A row with this id exists already.",
    "invalid_value": "The value is not valid for this field.",
    "invalid_mutation": "The mutation is not well-formed.",
    "required": "This field needs a value.",
    "unique": "Another row has this value already.",
    "constraint": "The row breaks a rule of this entity.",
    "missing_reference": "The row that this refers to does not exist, or was rejected itself.",
    "protected": "Other rows still refer to this row.",
    "not_a_counter": "Amounts can be added to counter fields only.",
    "id_reused": "A mutation with this id and different content was pushed before.",
    "group_failed": "Another mutation of the same group was rejected or needs a decision, so none of it was applied.",
    "internal_error": "The server failed on this mutation; an administrator can replay it.",
}

# Why a person's decision about one of many conflicts or rejections was not taken, or was not undone.
DECISION_REFUSALS: Mapping[str, str] = {
    "moved": "This was changed since; look at it, and decide about it alone.",
    "not_at_stake": "This field is not at stake in the conflict.",
    "unknown_values": "What the device had in all of these fields is not known; decide field by field.",
    "unit_apart": "The fields of a unit are decided together; give all of them.",
    "forbidden": "You have no permission for this.",
    "decided_again": "It was decided anew since; undo that first.",
    "already_undone": "This was undone already.",
    "depended_on": "Other rows refer to this row by now.",
    "decided": "This was replayed or discarded already.",
    "group_in_conflict": "Another change of the same group waits for a decision; decide that first.",
    "forgotten": "The history does not reach back that far.",
    "not_there": "The row was not there at that revision.",
}


_SCHEMES = {"login_required": "Token", "signature_refused": "Signature"}


class Problem(Exception):
    """A refusal of the whole request, to be raised anywhere below HTTP.

    `code` must be one of `PROBLEMS` (KeyError otherwise). `detail` says what is wrong with this very request; the
    catalogue's advice stands in for it. `extra` are further members of the body, such as `wipe=True`;
    `retry_after_seconds=30` also becomes the Retry-After header.
    """

    def __init__(self, code: str, detail: str | None = None, **extra: object) -> None:
        self.entry = PROBLEMS[code]
        self.code = code
        self.detail = detail or self.entry.advice
        self.extra = extra
        super().__init__(f"{code}: {self.detail}")

    @property
    def status(self) -> int:
        return self.entry.status

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that HTTP asks for beside this status."""
        headers: dict[str, str] = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = _SCHEMES.get(self.code, "Bearer")
        if self.code == "unsupported_encoding":
            headers["Accept-Encoding"] = "zstd, gzip"
        if "retry_after_seconds" in self.extra:
            headers["Retry-After"] = str(self.extra["retry_after_seconds"])
        return headers

    def as_dict(self) -> dict[str, object]:
        """The members of the problem: type, title, status, detail and code, then the extra ones."""
        return {
            "type": f"urn:syncserver:problem:{self.code}",
            "title": self.entry.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        } | {name: value for name, value in self.extra.items() if name not in {"type", "title", "status"}}

    def body(self) -> bytes:
        """The problem as JSON in ASCII, so that a detail that quotes odd input still encodes."""
        return json.dumps(self.as_dict(), separators=(",", ":")).encode("ascii")


def rejection(code: str, field: str | None = None, message: str | None = None) -> dict[str, str | None]:
    """One of a rejected mutation's `errors`; `field` is None where it means all of it. KeyError: no such code."""
    default = REJECTIONS[code]
    return {"field": field, "code": code, "message": message or default}
