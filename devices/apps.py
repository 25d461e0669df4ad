from django.apps import AppConfig


class DevicesConfig(AppConfig):
    name = "devices"

    def ready(self) -> None:
        from devices import admin_users

        admin_users.register()  # the admin application stands before us, so Django's own pages are there by now
