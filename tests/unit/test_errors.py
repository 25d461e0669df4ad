"""The catalogue of errors."""

import json
import re

import pytest

from syncserver.errors import CODE_BY_STATUS, PROBLEMS, REJECTIONS, Problem, rejection


@pytest.mark.parametrize("code", PROBLEMS)
def test_problem_body_follows_rfc_9457(code: str) -> None:
    body = json.loads(Problem(code).body())
    assert list(body) == ["type", "title", "status", "detail", "code"]
    assert body["type"] == f"urn:syncserver:problem:{code}"
    assert body["status"] == PROBLEMS[code].status
    assert body["code"] == code


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_says_what_to_do_next(code: str) -> None:
    entry = PROBLEMS[code]
    assert 400 <= entry.status < 600
    assert entry.advice.endswith(".")
    assert not entry.title.endswith(".")


@pytest.mark.parametrize("code", [*PROBLEMS, *REJECTIONS])
def test_codes_are_snake_case(code: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)


def test_code_by_status_agrees_with_the_catalogue() -> None:
    assert all(PROBLEMS[code].status == status for status, code in CODE_BY_STATUS.items())


def test_problem_of_an_unknown_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        Problem("no_such_code")


def test_extra_members_come_last_and_cannot_change_the_status() -> None:
    body = json.loads(Problem("device_revoked", wipe=True, status=200).body())
    assert body["wipe"] is True
    assert body["status"] == 401


@pytest.mark.parametrize(
    ("problem", "headers"),
    [
        (Problem("unauthorized"), {"WWW-Authenticate": "Bearer"}),
        (Problem("device_revoked"), {"WWW-Authenticate": "Bearer"}),
        (Problem("rate_limited", retry_after_seconds=30), {"Retry-After": "30"}),
        (Problem("unsupported_encoding"), {"Accept-Encoding": "zstd, gzip"}),
        (Problem("not_found"), {}),
    ],
)
def test_headers_that_belong_to_the_status(problem: Problem, headers: dict[str, str]) -> None:
    assert problem.headers == headers


def test_detail_that_quotes_odd_input_still_encodes() -> None:
    assert json.loads(Problem("invalid_request", "not \ud800 text").body())["detail"] == "not \ud800 text"


def test_rejection_has_a_default_message() -> None:
    assert rejection("unique", "email") == {
        "field": "email",
        "code": "unique",
        "message": "Another row has this value already.",
    }
    assert rejection("invalid_value", "email", "Enter a valid address.")["message"] == "Enter a valid address."
    with pytest.raises(KeyError):
        rejection("no_such_code")
