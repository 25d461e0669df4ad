"""Whatever goes wrong in a view of the API is told as a problem, and tells no secrets; without a database."""

import logging

import psycopg
import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.test import Client, override_settings
from rest_framework import exceptions as drf

from syncserver.errors import Problem
from syncserver.http import problem_of
from tests.unit.http_support import code_of, raising, stand_ins

pytestmark = pytest.mark.usefixtures(stand_ins.__name__)

FAILURES = [
    (Problem("token_expired"), 410, "token_expired"),
    (Http404("secret"), 404, "not_found"),
    (PermissionDenied("secret"), 403, "forbidden"),
    (SuspiciousOperation("secret"), 400, "invalid_request"),
    (OperationalError("secret: connection refused"), 503, "service_unavailable"),
    (InterfaceError("secret"), 503, "service_unavailable"),
    (psycopg.OperationalError("secret"), 503, "service_unavailable"),
    (RuntimeError("secret"), 500, "internal_error"),
    (drf.NotAuthenticated(), 401, "unauthorized"),
    (drf.PermissionDenied(), 403, "forbidden"),
    (drf.NotFound(), 404, "not_found"),
    (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
    (drf.NotAcceptable(), 406, "not_acceptable"),
    (drf.UnsupportedMediaType("text/csv"), 415, "unsupported_media_type"),
    (drf.ParseError(), 400, "invalid_json"),
    (drf.ValidationError({"name": ["too long"]}), 400, "invalid_request"),
    (drf.Throttled(wait=12.3), 429, "rate_limited"),
    (drf.APIException("secret"), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
@pytest.mark.parametrize("debug", [False, True])
def test_exception_in_an_api_view_is_a_problem(
    client: Client, error: Exception, status: int, code: str, debug: bool
) -> None:
    raising(error)
    with override_settings(DEBUG=debug):
        response = client.get("/sync/fail")
    assert (response.status_code, code_of(response)) == (status, code)
    assert b"secret" not in response.content
    assert b"Traceback" not in response.content


# REST framework itself makes a 401 a 403 in a view without authentication, such as this one.
@pytest.mark.parametrize(("error", "status", "code"), [row for row in FAILURES if row[1] != 401])
def test_exception_in_a_rest_framework_view_is_the_same_problem(
    client: Client, error: Exception, status: int, code: str
) -> None:
    raising(error)
    response = client.get("/sync/rest")
    assert (response.status_code, code_of(response)) == (status, code)
    assert b"secret" not in response.content


def test_database_away_and_throttling_say_when_to_retry(client: Client) -> None:
    raising(OperationalError())
    assert client.get("/sync/fail").headers["Retry-After"] == "5"
    raising(drf.Throttled(wait=12.3))
    assert client.get("/sync/fail").headers["Retry-After"] == "13"


def test_failure_is_logged_once_with_its_traceback(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    raising(RuntimeError("the reason"))
    client.get("/sync/fail")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [str(record.exc_info and record.exc_info[1]) for record in errors] == ["the reason"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("address", ["/sync/none", "/devices/none", "/healthz/none", "/sync/large/"])
def test_unknown_api_address_is_a_problem(client: Client, address: str, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        assert code_of(client.get(address)) == "not_found"


def test_wrong_method_is_a_problem_that_names_the_right_ones(client: Client) -> None:
    plain, rest = client.post("/sync/get"), client.delete("/sync/rest")
    assert code_of(plain) == code_of(rest) == "method_not_allowed"
    assert plain.headers["Allow"] == "GET"
    assert "POST" in rest.headers["Allow"]


def test_direct_view_answers_its_methods_and_names_them_to_who_asks(client: Client) -> None:
    assert (client.get("/sync/direct").content, client.head("/sync/direct").content) == (b"here", b"")
    for asked, status in ((client.options("/sync/direct"), 204), (client.delete("/sync/direct"), 405)):
        assert (asked.status_code, asked.headers["Allow"]) == (status, "GET, HEAD, OPTIONS")
    raising(Problem("invalid_token"))
    assert code_of(client.post("/sync/fail")) == "invalid_token"


@pytest.mark.parametrize("debug", [False, True])
def test_forbidden_host_is_a_problem(client: Client, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        response = client.get("/sync/large", headers={"Host": "evil.example"})
    assert (response.status_code, code_of(response)) == (400, "invalid_request")


def test_pages_outside_the_api_keep_their_html(client: Client) -> None:
    client.raise_request_exception = False
    raising(RuntimeError())
    assert client.get("/fail").headers["Content-Type"].startswith("text/html")
    assert client.get("/none").headers["Content-Type"].startswith("text/html")


def test_unforeseen_exception_keeps_its_text_from_the_client() -> None:
    assert "secret" not in str(problem_of(ValueError("secret")).as_dict())
