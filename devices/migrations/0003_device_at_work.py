import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0002_granted"),
    ]

    operations = [
        migrations.AlterField(
            model_name="grant",
            name="source",
            field=models.TextField(blank=True, db_default="", default="", editable=False),
        ),
        migrations.AddField(
            model_name="device",
            name="let_in_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="device",
            name="old_token_hash",
            field=models.BinaryField(max_length=32, null=True, unique=True),
        ),
        migrations.AddField(
            model_name="device",
            name="old_token_until",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="device",
            name="token_at",
            field=models.DateTimeField(default=django.utils.timezone.now, editable=False, verbose_name="token made at"),
        ),
        migrations.RunSQL("UPDATE devices_device SET token_at = created_at", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="device",
            name="wiped_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.CreateModel(
            name="Usage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(choices=[("requests", "requests"), ("changes", "changes")], max_length=10)),
                ("at", models.DateTimeField()),
                ("hour", models.IntegerField()),
                ("day", models.IntegerField()),
                ("reached_at", models.DateTimeField(null=True)),
                (
                    "device",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="usage",
                        to="devices.device",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("device", "kind"), name="devices_usage_device_kind")],
            },
        ),
    ]
