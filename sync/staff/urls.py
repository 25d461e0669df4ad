from django.urls import path

from sync.staff import devices, views

urlpatterns = [
    path("entities", views.EntitiesView.as_view()),
    path("conflicts", views.ConflictsView.as_view()),
    path("conflicts/preview", views.PreviewView.as_view()),
    path("conflicts/resolve", views.ResolveManyView.as_view()),
    path("conflicts/<uuid:id>", views.ConflictView.as_view()),
    path("conflicts/<uuid:id>/resolve", views.ResolveView.as_view()),
    path("decisions", views.DecisionsView.as_view()),
    path("decisions/undo", views.UndoView.as_view()),
    path("quarantine", views.QuarantineView.as_view()),
    path("quarantine/discard", views.DiscardView.as_view()),
    path("quarantine/<uuid:id>", views.RejectionView.as_view()),
    path("quarantine/<uuid:id>/replay", views.ReplayView.as_view()),
    path("devices", devices.DevicesView.as_view()),
    path("devices/<uuid:id>", devices.DeviceView.as_view()),
    path("devices/<uuid:id>/revoke", devices.RevokeView.as_view()),
    path("devices/<uuid:id>/let-in", devices.LetInView.as_view()),
    path("devices/<uuid:id>/grants", devices.DeviceGrantsView.as_view()),
    path("devices/<uuid:id>/grants/revoke", devices.DeviceRevocationsView.as_view()),
    path("users/<str:name>/grants", devices.UserGrantsView.as_view()),
    path("users/<str:name>/grants/revoke", devices.UserRevocationsView.as_view()),
    path("history", views.HistoryView.as_view()),
    path("rows/<str:entity>/<uuid:id>/restore", views.RestoreView.as_view()),
]
