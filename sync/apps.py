from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SyncConfig(AppConfig):
    name = "sync"
    verbose_name = "Conflicts and rejections"

    def ready(self) -> None:
        from sync import admin_conflicts, admin_devices, admin_entities, admin_quarantine, checks, install

        checks.register()
        admin_conflicts.register()
        admin_quarantine.register()
        admin_devices.register()
        admin_entities.register()  # the admin application stands before us, so every admin.py has been read by now
        # Django's own hook at the end of `migrate`, and the only one: triggers follow the declarations.
        post_migrate.connect(install.after_migrate, sender=self)
