from django.urls import path

from legacy.webhooks import api

urlpatterns = [
    path("operations/<uuid:id>", api.OperationView.as_view()),
    path("<str:system>/webhook", api.WebhookView.as_view()),
    path("<str:system>/webhook/<str:secret>", api.SecretWebhookView.as_view()),
]
