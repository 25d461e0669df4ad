"""Conflicts that people decide, a quarantine they mend, and what devices are told of it."""

import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

COLUMNS = """
-- Of a deleted row: the columns that devices never see, so that it can come back whole.
ALTER TABLE sync_history ADD COLUMN hidden json;
-- When the device made the change, corrected for its clock; kept where an entity's policy asks whose change was later.
ALTER TABLE sync_result ADD COLUMN made_at timestamptz;
"""
DROP = "ALTER TABLE sync_history DROP COLUMN hidden; ALTER TABLE sync_result DROP COLUMN made_at;"


class Migration(migrations.Migration):
    dependencies = [("sync", "0002_conflict_rejection")]
    operations = [
        migrations.RunSQL(COLUMNS, DROP),
        migrations.RemoveField(
            model_name="conflict",
            name="decision",
        ),
        migrations.AddField(
            model_name="conflict",
            name="decided_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="conflict",
            name="decided_by",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddField(
            model_name="conflict",
            name="fields",
            field=django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None),
        ),
        migrations.AddField(
            model_name="conflict",
            name="mixed",
            field=django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None),
        ),
        migrations.AddField(
            model_name="conflict",
            name="group",
            field=models.UUIDField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="conflict",
            name="state",
            field=models.TextField(
                choices=[
                    ("open", "waits for a person"),
                    ("server", "the server's values stay"),
                    ("device", "the device's values are taken"),
                    ("mixed", "some of each, or other values"),
                ],
                db_index=True,
                default="server",
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="rejection",
            name="cause",
            field=models.TextField(default=""),
        ),
        migrations.AddField(
            model_name="rejection",
            name="comment",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddField(
            model_name="rejection",
            name="conflict",
            field=models.UUIDField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rejection",
            name="decided_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rejection",
            name="decided_by",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddField(
            model_name="rejection",
            name="group",
            field=models.UUIDField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rejection",
            name="mended",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rejection",
            name="op",
            field=models.TextField(default=""),
        ),
        migrations.AddField(
            model_name="rejection",
            name="place",
            field=models.IntegerField(default=0),
        ),
        migrations.AddField(
            model_name="rejection",
            name="rev",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="rejection",
            name="state",
            field=models.TextField(
                choices=[
                    ("open", "waits for a person"),
                    ("replayed", "mended and applied"),
                    ("discarded", "discarded"),
                ],
                db_index=True,
                default="open",
            ),
        ),
        migrations.CreateModel(
            name="Decision",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("by", models.TextField()),
                ("comment", models.TextField(blank=True, default="")),
                (
                    "state_before",
                    models.TextField(
                        choices=[
                            ("open", "waits for a person"),
                            ("server", "the server's values stay"),
                            ("device", "the device's values are taken"),
                            ("mixed", "some of each, or other values"),
                        ]
                    ),
                ),
                (
                    "state",
                    models.TextField(
                        choices=[
                            ("open", "waits for a person"),
                            ("server", "the server's values stay"),
                            ("device", "the device's values are taken"),
                            ("mixed", "some of each, or other values"),
                        ]
                    ),
                ),
                ("before", models.JSONField(blank=True, null=True)),
                ("after", models.JSONField(blank=True, null=True)),
                ("rev", models.BigIntegerField(blank=True, null=True)),
                ("bulk", models.UUIDField(blank=True, db_index=True, null=True)),
                ("undone_at", models.DateTimeField(blank=True, null=True)),
                ("undone_by", models.TextField(blank=True, default="")),
                (
                    "conflict",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="decisions", to="sync.conflict"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Outcome",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("device", models.UUIDField()),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("mutation", models.UUIDField()),
                ("entity", models.TextField()),
                ("row_id", models.UUIDField()),
                (
                    "outcome",
                    models.TextField(
                        choices=[
                            ("open", "waits again for a person"),
                            ("server", "the server's values stay"),
                            ("device", "the device's values were taken"),
                            ("mixed", "some of each, or other values"),
                            ("replayed", "mended and applied"),
                            ("discarded", "discarded"),
                        ]
                    ),
                ),
                ("rev", models.BigIntegerField(null=True)),
                ("by", models.TextField()),
                ("comment", models.TextField(blank=True, default="")),
            ],
            options={
                "indexes": [models.Index(fields=["device", "number"], name="sync_outcome_device")],
            },
        ),
    ]
