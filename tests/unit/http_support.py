"""Views that stand in for the project's, behind all that a request passes through."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from syncserver.http import DirectView

LARGE = {"text": "again and again " * 1000}
raised: Exception | None = None  # what `fail` raises next


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type="application/octet-stream")


def large(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps(LARGE), content_type="application/json", headers={"ETag": '"one"'})


def page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("<p>" + "text " * 1000)


def events(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["data\n" * 1000]), content_type="text/plain")


def fail(_request: HttpRequest) -> HttpResponse:
    assert raised is not None
    raise raised


def get_only(_request: HttpRequest) -> HttpResponse:
    return HttpResponseNotAllowed(["GET"])


class RestView(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, _request: Request) -> HttpResponse:
        assert raised is not None
        raise raised

    def post(self, request: Request) -> Response:
        return Response(request.data)


class Direct(DirectView):
    def get(self, _request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"here")


urlpatterns = [
    path("sync/direct", Direct.as_view()),
    path("sync/push", echo),
    path("sync/echo", echo),
    path("sync/large", large),
    path("sync/events", events),
    path("sync/fail", fail),
    path("sync/get", get_only),
    path("sync/rest", RestView.as_view()),
    path("page", page),
    path("fail", fail),
]
MIDDLEWARE = [
    "syncserver.http.RequestMiddleware",
    "django.middleware.common.CommonMiddleware",
    "syncserver.http.ApiMiddleware",
]


@pytest.fixture
def stand_ins() -> Iterator[None]:
    """Requests go to the views of this module."""
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE):
        yield


def raising(error: Exception) -> None:
    global raised
    raised = error


def post(client: Client, address: str, body: bytes, **headers: str) -> Any:
    return client.post(address, body, content_type="application/json", headers=headers)


def code_of(response: Any) -> str:
    assert response.headers["Content-Type"] == "application/problem+json"
    return str(json.loads(response.content)["code"])
