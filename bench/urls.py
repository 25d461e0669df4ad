"""The project's paths and a view that does nothing: what Django and the server cost by themselves."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from syncserver import urls


def noop(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"{}", content_type="application/json")


# Under /sync/, so that it passes through exactly what a pull passes through; first, so that it is found at once.
urlpatterns = [path("sync/noop", noop), *urls.urlpatterns]
