"""`openapi.yaml` is what the code says, and its examples are what its schemas allow."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from django.conf import settings
from django.test import Client

from syncserver.openapi import document

FILE = settings.BASE_DIR / "openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
OPERATIONS = {(method, path): found for path, item in DOCUMENT["paths"].items() for method, found in item.items()}


def contents() -> Iterator[Any]:
    for (method, path), operation in OPERATIONS.items():
        parts = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for part, described in parts.items():
            for media_type, content in described.get("content", {}).items():
                yield pytest.param(content, id=f"{method} {path} {part} {media_type}")


def test_openapi_file_is_what_the_code_says() -> None:
    mend = "Run manage.py spectacular --file openapi.yaml"
    assert FILE.read_bytes() == document(), mend


@pytest.mark.slow
def test_openapi_file_is_served(client: Client) -> None:
    assert client.get("/openapi.yaml").content == FILE.read_bytes()


def test_every_endpoint_is_described() -> None:
    assert set(OPERATIONS) == {
        ("post", "/devices/enroll"),
        ("get", "/devices/me"),
        ("post", "/devices/me/rotate"),
        ("post", "/devices/me/wiped"),
        ("get", "/sync/schema"),
        ("get", "/sync/pull"),
        ("post", "/sync/push"),
        ("get", "/sync/operations/{id}"),
        ("post", "/sync/unknown"),
        ("get", "/sync/outcomes"),
        ("get", "/sync/digest"),
        ("post", "/sync/digest/mismatch"),
        ("post", "/sync/rows"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/api/entities"),
        ("get", "/api/conflicts"),
        ("get", "/api/conflicts/{id}"),
        ("post", "/api/conflicts/{id}/resolve"),
        ("post", "/api/conflicts/preview"),
        ("post", "/api/conflicts/resolve"),
        ("get", "/api/decisions"),
        ("post", "/api/decisions/undo"),
        ("get", "/api/quarantine"),
        ("get", "/api/quarantine/{id}"),
        ("post", "/api/quarantine/{id}/replay"),
        ("post", "/api/quarantine/discard"),
        ("get", "/api/devices"),
        ("get", "/api/devices/{id}"),
        ("post", "/api/devices/{id}/revoke"),
        ("post", "/api/devices/{id}/let-in"),
        ("get", "/api/devices/{id}/grants"),
        ("post", "/api/devices/{id}/grants"),
        ("post", "/api/devices/{id}/grants/revoke"),
        ("get", "/api/users/{name}/grants"),
        ("post", "/api/users/{name}/grants"),
        ("post", "/api/users/{name}/grants/revoke"),
        ("get", "/api/history"),
        ("post", "/api/rows/{entity}/{id}/restore"),
        ("post", "/legacy/{system}/webhook"),
        ("post", "/legacy/{system}/webhook/{secret}"),
        ("get", "/legacy/operations/{id}"),
    }


@pytest.mark.parametrize(("method", "path"), list(OPERATIONS))
def test_what_needs_a_token_says_so(method: str, path: str) -> None:
    staff, device = path.startswith("/api/"), path.startswith(("/sync/", "/devices/me"))
    demanded = ["tokenAuth", "cookieAuth"] if staff else ["device"] if device else []
    if path == "/legacy/operations/{id}":
        demanded = ["tokenAuth"]  # or the link that a webhook was answered with
    assert [name for each in OPERATIONS[method, path].get("security", []) for name in each] == demanded
    assert ("401" in OPERATIONS[method, path]["responses"]) == (staff or device or path.startswith("/legacy/"))


@pytest.mark.parametrize("content", list(contents()))
def test_examples_are_what_the_schema_allows(content: dict[str, Any]) -> None:
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    assert content["examples"]
    for example in content["examples"].values():
        validator.validate(example["value"])
