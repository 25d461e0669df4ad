"""What was brought back after a restore, each revision of it, and what was added to counters."""

from django.db import migrations

CREATE = """
ALTER TABLE sync_healed
    ADD COLUMN amount numeric, DROP CONSTRAINT sync_healed_pkey, ADD PRIMARY KEY (row_id, entity, field, rev);
"""
DROP = """
DELETE FROM sync_healed h WHERE h.amount IS NOT NULL OR EXISTS (
    SELECT FROM sync_healed o WHERE (o.row_id, o.entity, o.field) = (h.row_id, h.entity, h.field) AND o.rev > h.rev);
ALTER TABLE sync_healed
    DROP COLUMN amount, DROP CONSTRAINT sync_healed_pkey, ADD PRIMARY KEY (row_id, entity, field);
"""


class Migration(migrations.Migration):
    dependencies = [("sync", "0011_feed_recent")]
    operations = [migrations.RunSQL(CREATE, DROP)]
