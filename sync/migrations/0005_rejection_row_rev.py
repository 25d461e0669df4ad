"""Which of a device's own changes are newer than a mutation of it that was refused."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sync", "0004_alerts")]

    operations = [
        migrations.AddField(
            model_name="rejection",
            name="row_rev",
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
