from django.urls import path

from sync import api

urlpatterns = [
    path("sync/schema", api.SchemaView.as_view()),
    path("sync/pull", api.PullView.as_view()),
    path("sync/push", api.PushView.as_view()),
    path("sync/unknown", api.UnknownView.as_view()),
    path("sync/operations/<uuid:id>", api.OperationView.as_view()),
    path("sync/outcomes", api.OutcomesView.as_view()),
    path("sync/digest", api.DigestView.as_view()),
    path("sync/digest/mismatch", api.MismatchView.as_view()),
    path("sync/rows", api.RowsView.as_view()),
    path("healthz", api.HealthView.as_view()),
    path("readyz", api.ReadyView.as_view()),
    path("metrics", api.metrics),
]
