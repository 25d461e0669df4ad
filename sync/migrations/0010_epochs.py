"""Starts of the database server, restores, what devices brought back after one, and rows whose tombstones are gone."""

from django.db import migrations, models

TABLES = """
-- From which transaction on this database went on after a restore.
ALTER TABLE sync_epoch ADD COLUMN since xid8;

-- Each start of the database server: where its log ended then, and which transaction was next. Tokens name the last one.
CREATE TABLE sync_start (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL UNIQUE,
    beacon text COLLATE "C" NOT NULL UNIQUE DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 12),
    lsn pg_lsn NOT NULL,
    xid xid8 NOT NULL
);

-- The revision that a mutation had before a restore; 0: it was made before it and came after it.
ALTER TABLE sync_result ADD COLUMN lost bigint;

-- By field ('': its delete) the last revision before a restore that was brought back.
CREATE TABLE sync_healed (
    row_id uuid NOT NULL,
    entity text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (row_id, entity, field)
);

-- The last revision of rows whose tombstones are forgotten: one that comes back goes on counting.
CREATE TABLE sync_forgotten (
    row_id uuid NOT NULL,
    entity text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (row_id, entity)
);
"""
DROP = """
DROP TABLE sync_start, sync_healed, sync_forgotten;
ALTER TABLE sync_result DROP COLUMN lost;
ALTER TABLE sync_epoch DROP COLUMN since;
"""


class Migration(migrations.Migration):
    dependencies = [("sync", "0009_mismatch")]
    operations = [
        migrations.RunSQL(TABLES, DROP),
        migrations.AddField("rejection", "lost", models.BigIntegerField(blank=True, null=True)),
        migrations.AddIndex(
            "rejection",
            models.Index(
                fields=["device"],
                condition=models.Q(state="open", lost__isnull=False),
                name="sync_rejection_lost",
            ),
        ),
    ]
