"""Whatever is sent to it, the server answers as `openapi.yaml` says, and never with a 5xx."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.acceptance.acceptance_support import ROOT, Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES_FAST = 15  # of each endpoint
EXAMPLES_SLOW = 100

Case = schemathesis.Case[Any]
schema = schemathesis.openapi.from_path(ROOT / "openapi.yaml")


class Caller:
    """An enrolled device with rows to pull, and its newest bearer and pull tokens; and an administrator's token."""

    def __init__(self, server: Server) -> None:
        device = server.enroll(name="schemathesis")
        self.url = server.url
        self.headers = device.headers
        name, _ = server.superuser("schemathesis")
        self.staff = {"Authorization": f"Token {server.manage('drf_create_token', name).split()[2]}"}
        with server.connect() as other:
            other.execute("INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
                          " VALUES (gen_random_uuid(), 'Maria', 'Anders', '', '', '', '')")  # fmt: skip
        page = httpx.get(f"{self.url}/sync/pull", headers=self.headers).json()
        self.pull_token = page["token"]

    def call(self, case: Case) -> None:
        # What is generated is not really compressed, and a pull token is never guessed.
        case.headers.pop("Content-Encoding", None)
        if len(case.query.get("token") or "") % 2:
            case.query["token"] = self.pull_token
        headers = self.staff if case.path.startswith("/api/") else self.headers
        response: Any = case.call_and_validate(base_url=self.url, headers=headers, checks=CHECKS, timeout=30)
        if (case.method, case.path, response.status_code) == ("POST", "/devices/me/rotate", 200):
            self.headers = {"Authorization": f"Bearer {response.json()['token']}"}


@pytest.fixture(scope="module")
def caller(server: Server) -> Caller:
    return Caller(server)


@schema.parametrize()
@settings(max_examples=EXAMPLES_FAST, suppress_health_check=list(HealthCheck))
def test_answers_are_what_the_description_says(case: Case, caller: Caller) -> None:
    caller.call(case)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=EXAMPLES_SLOW, suppress_health_check=list(HealthCheck))
def test_answers_to_very_many_requests_are_what_the_description_says(case: Case, caller: Caller) -> None:
    caller.call(case)
