"""Logs: one JSON object a line, with the request's id, and with no secret in it."""

import logging
import re
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog
from structlog.types import EventDict, Processor

REDACTED = "[redacted]"
DEVICE_KEY = "syncserver.device"  # in a request's META: whom the access line names
_SECRET_KEY = re.compile(r"(?:^|_|-)(?:token|authorization|password|secret|cookie|code)(?:$|_|-)", re.IGNORECASE)
# Secrets that hide in free text: device tokens, bearer headers, enrolment codes and passwords within addresses.
_SECRET_TEXT = re.compile(
    r"sd_[\w-]{43}|(?<=[Bb]earer )[\w.~+/=-]+|(?<=://)[^\s/@:\"]*:[^\s/@\"]+(?=@)|\b[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}\b"
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def json_formatter() -> logging.Formatter:
    """The formatter of `settings.LOGGING`. Sets up structlog too, so that its loggers end in the same lines."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return _Formatter(
        foreign_pre_chain=[_extra, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, _render],
    )


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        # The access line, once a request, is made of facts that hold no secret: the processors cost four times as much.
        access = getattr(record, "access", None)
        return super().format(record) if access is None else msgspec.json.encode(access).decode()


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace the values of keys that name a secret, at any depth of dictionaries."""
    return {key: _without_secrets(key, value) for key, value in event.items()}


def _without_secrets(key: str, value: object) -> object:
    if isinstance(key, str) and _SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, dict):
        return {inner: _without_secrets(inner, item) for inner, item in value.items()}
    return value


def _extra(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add what `logger.info(…, extra={…})` was given."""
    for key, value in vars(event["_record"]).items():
        if key not in _STANDARD and key not in {
            "request",
            "server_time",
            "status_code",
        }:  # Django's own: objects, not facts
            event[key] = value
    return event


def _render(_logger: Any, _method: str, event: EventDict) -> str:
    line = msgspec.json.encode(event, enc_hook=repr).decode("utf-8", "replace")
    return _SECRET_TEXT.sub(REDACTED, line)
