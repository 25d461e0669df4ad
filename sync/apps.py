from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SyncConfig(AppConfig):
    name = "sync"
    verbose_name = "Conflicts and rejections"

    def ready(self) -> None:
        from sync import checks, install
        from sync.pages import conflicts, devices, entities, mismatches, quarantine

        checks.register()
        conflicts.register()
        quarantine.register()
        mismatches.register()
        devices.register()
        entities.register()  # the admin application stands before us, so every admin.py has been read by now
        # Django's own hook at the end of `migrate`, and the only one: triggers follow the declarations.
        post_migrate.connect(install.after_migrate, sender=self)
