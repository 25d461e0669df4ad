from django.apps import AppConfig
from django.db.models.signals import post_migrate


class DevicesConfig(AppConfig):
    name = "devices"

    def ready(self) -> None:
        from devices import admin_users, install

        admin_users.register()  # the admin application stands before us, so Django's own pages are there by now
        post_migrate.connect(install.after_migrate, sender=self)
