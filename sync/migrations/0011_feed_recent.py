"""Serves idle pulls: what was written last, in whatever scope."""

from django.db import migrations

DROP = "DROP INDEX IF EXISTS sync_feed_recent"
# True of every entry, and said by nobody but who wants this index: no plan reads past a scope's entries by it.
CREATE = "CREATE INDEX CONCURRENTLY sync_feed_recent ON sync_feed (xid) WHERE rev > 0"


class Migration(migrations.Migration):
    atomic = False  # the index is built beside who writes; one that was broken off is built anew
    dependencies = [("sync", "0010_epochs")]
    operations = [migrations.RunSQL([DROP, CREATE], DROP)]
