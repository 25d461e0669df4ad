from django.urls import path

from devices.api import EnrollView, MeView, RotateView, WipedView

urlpatterns = [
    path("enroll", EnrollView.as_view(), name="devices_enroll"),
    path("me", MeView.as_view(), name="devices_me"),
    path("me/rotate", RotateView.as_view(), name="devices_rotate"),
    path("me/wiped", WipedView.as_view(), name="devices_wiped"),
]
