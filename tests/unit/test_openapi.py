"""The pieces of the OpenAPI description that endpoints share."""

from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import OpenApiExample

from syncserver.errors import PROBLEMS
from syncserver.openapi import problems


def examples_of(responses: dict[Any, Any]) -> list[OpenApiExample]:
    return [example for response in responses.values() for example in response.examples]


def test_problems_are_grouped_by_status_with_an_example_of_each() -> None:
    responses = problems("device_revoked", "unauthorized", "token_expired")
    assert [status for status, _ in responses] == [401, 410, 500, 503]
    assert {media_type for _, media_type in responses} == {"application/problem+json"}
    assert [example.name for example in examples_of(responses)][:2] == ["device_revoked", "unauthorized"]


@pytest.mark.parametrize("code", PROBLEMS)
def test_example_of_a_problem_is_what_is_sent(code: str) -> None:
    values = [example.value for example in examples_of(problems(code)) if example.name == code]
    assert [value["code"] for value in values] == [code]
    assert values[0]["status"] == PROBLEMS[code].status


def test_problem_outside_the_catalogue_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        problems("no_such_code")


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("post", "/devices/enroll", {"201", "400", "403", "406", "413", "415", "429", "500", "503"}),
        ("get", "/devices/me", {"200", "401", "406", "429", "500", "503"}),
        ("post", "/devices/me/rotate", {"200", "401", "406", "429", "500", "503"}),
        ("post", "/devices/me/wiped", {"204", "401", "403", "406", "500", "503"}),
    ],
)
def test_device_endpoints_are_described_with_every_answer(method: str, path: str, statuses: set[str]) -> None:
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    operation = schema["paths"][path][method]
    assert set(operation["responses"]) == statuses
    assert operation.get("security") == (None if path == "/devices/enroll" else [{"device": []}])
