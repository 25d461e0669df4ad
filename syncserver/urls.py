from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerView

from syncserver.openapi import openapi_yaml

admin.site.index_title = "What needs attention"
admin.site.index_template = "admin/sync/front_page.html"

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("favicon.ico", RedirectView.as_view(url=static("sync/favicon.svg"))),
    path("admin/", admin.site.urls),
    path("devices/", include("devices.urls")),
    path("api/", include("sync.staff.urls")),
    path("legacy/", include("legacy.webhooks.urls")),
    path("", include("sync.urls")),
    path("openapi.yaml", openapi_yaml, name="openapi"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="openapi"), name="docs"),
]
