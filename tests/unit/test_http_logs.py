"""How a request is known: its id, the line about it in the log, and the address it came from; without a database."""

import json
import logging
from typing import Any

import pytest
from django.test import Client, RequestFactory, override_settings

from syncserver.http import client_address
from syncserver.logs import json_formatter
from tests.unit.http_support import stand_ins

pytestmark = pytest.mark.usefixtures(stand_ins.__name__)


# --- Request id and logs --------------------------------------------------------------------------


def test_sane_request_id_is_kept(client: Client) -> None:
    assert (
        client.get("/sync/large", headers={"X-Request-ID": "trace-0198_a.b"}).headers["X-Request-ID"]
        == "trace-0198_a.b"
    )


@pytest.mark.parametrize("given_id", ["", "short", "x" * 65, "a b c d e f g", 'quote"quote', "line\nline\n"])
def test_other_request_id_is_replaced(client: Client, given_id: str) -> None:
    response = client.get("/sync/large", headers={"X-Request-ID": given_id})
    assert len(response.headers["X-Request-ID"]) == 32


def test_access_line_is_json_without_secrets(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "syncserver.access"):
        client.get("/sync/large?token=secret", headers={"Authorization": "Bearer secret", "X-Request-ID": "trace-01"})
    (record,) = (record for record in caplog.records if record.name == "syncserver.access")
    line = json_formatter().format(record)
    facts = json.loads(line)
    assert "secret" not in line
    assert facts.items() >= {"method": "GET", "path": "/sync/large", "status": 200, "request_id": "trace-01"}.items()
    assert facts["ms"] >= 0


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        ("enrolled", {"token": "secret"}),
        ("enrolled", {"facts": {"Authorization": "secret", "device_token": "secret"}}),
        ("new password", {"password": "secret"}),
        ("enrolled", {"enrollment_code": "secret"}),
        ("got Bearer secret-secret", {}),
        ("token sd_" + "secret0" * 6 + "1", {}),
        ("connecting to postgresql://app:secret@host/name", {}),
    ],
)
def test_secrets_are_redacted(message: str, extra: dict[str, Any]) -> None:
    record = logging.getLogger("test").makeRecord("test", logging.INFO, "", 0, message, (), None, extra=extra)
    line = json_formatter().format(record)
    assert "secret" not in line
    assert "[redacted]" in line
    json.loads(line)


# --- Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "remote", "forwarded", "address"),
    [
        (0, "203.0.113.9", "10.0.0.1", "203.0.113.9"),  # anybody can send the header
        (1, "10.0.0.2", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what the proxy appended, not what the caller made up
        (2, "10.0.0.3", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (2, "10.0.0.3", "203.0.113.9", "10.0.0.3"),  # it did not come by both proxies
        (0, "2001:db8:1:2:aaaa::1", "", "2001:db8:1:2::/64"),
        (0, "::ffff:203.0.113.9", "", "203.0.113.9"),
        (0, "", "", "unknown"),
        (1, "10.0.0.2", "rubbish", "unknown"),
    ],
)
def test_client_address(proxies: int, remote: str, forwarded: str, address: str) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=remote, headers={"X-Forwarded-For": forwarded})
    with override_settings(SYNC_PROXIES_COUNT=proxies):
        assert client_address(request) == address
