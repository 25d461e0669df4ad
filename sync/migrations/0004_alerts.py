"""Alerts, what each channel was told of them, and what it is still to be told."""

import django.db.models.deletion
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sync", "0003_decisions"),
    ]

    operations = [
        migrations.CreateModel(
            name="AlertChannel",
            fields=[
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("checked_at", models.DateTimeField()),
                ("failing_since", models.DateTimeField(blank=True, null=True)),
                ("error", models.TextField(blank=True, default="")),
                ("disabled_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Announced",
            fields=[
                ("conflict", models.UUIDField(primary_key=True, serialize=False)),
            ],
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.TextField(
                        choices=[
                            ("conflicts_late", "conflicts wait for too long"),
                            ("quarantine_late", "mutations in quarantine wait for too long"),
                            ("device_stuck", "a device does not get rid of its outbox"),
                            ("device_silent", "a device does not call any more"),
                            ("channel_failing", "alerts do not get through"),
                        ]
                    ),
                ),
                ("subject", models.TextField()),
                ("since", models.DateTimeField()),
                ("count", models.IntegerField()),
                ("raised_at", models.DateTimeField()),
                ("cleared_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("cleared_at", None)), fields=("kind", "subject"), name="sync_alert_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AlertMessage",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("event", models.TextField()),
                ("body", models.TextField()),
                ("created_at", models.DateTimeField()),
                ("tries", models.IntegerField(default=0)),
                ("next_at", models.DateTimeField(null=True)),
                ("told_at", models.DateTimeField(null=True)),
                ("error", models.TextField(blank=True, default="")),
                ("channel", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="sync.alertchannel")),
            ],
        ),
        migrations.CreateModel(
            name="Telling",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("what", models.TextField(choices=[("raised", "Raised"), ("cleared", "Cleared")])),
                ("alert", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="sync.alert")),
                ("channel", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="sync.alertchannel")),
                ("message", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="sync.alertmessage")),
            ],
        ),
        migrations.AddIndex(
            model_name="alertmessage",
            index=models.Index(fields=["channel", "next_at"], name="sync_alertmessage_due"),
        ),
        migrations.AddIndex(
            model_name="alertmessage",
            index=models.Index(fields=["channel", "-created_at"], name="sync_alertmessage_last"),
        ),
        migrations.AddConstraint(
            model_name="telling",
            constraint=models.UniqueConstraint(fields=("alert", "channel", "what"), name="sync_telling_once"),
        ),
    ]
