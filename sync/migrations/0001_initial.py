"""The feed, the history and what push remembers. Hand-written: PostgreSQL holds what must always hold."""

from django.db import migrations

TABLES = """
-- One row: which database this is, and the position below which tombstones may be forgotten.
CREATE TABLE sync_epoch (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    database_identity text NOT NULL,
    forgotten_before xid8 NOT NULL DEFAULT '0',
    began_at timestamptz NOT NULL DEFAULT now()
);

-- The latest state of every row in every scope it belongs to. data is the row on the wire; NULL is a tombstone.
CREATE TABLE sync_feed (
    row_id uuid NOT NULL,
    entity text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    rev bigint NOT NULL CHECK (rev > 0),
    xid xid8 NOT NULL,
    seq bigint NOT NULL,
    data text,
    PRIMARY KEY (row_id, entity, scope)
);
-- Orders the entries of one transaction, which all come from one session: so a session may keep numbers in stock.
CREATE SEQUENCE sync_feed_seq CACHE 1000 OWNED BY sync_feed.seq;
-- Serves pull: the range scan of one scope.
CREATE INDEX sync_feed_position ON sync_feed (scope, xid, seq);
-- Serves prune (old tombstones) and nothing else, so it holds tombstones only.
CREATE INDEX sync_feed_tombstones ON sync_feed (xid) WHERE data IS NULL;

-- Every captured change, for merges, audit and undo. An update holds the changed fields, old and new, in wire form; a
-- delete the whole row. An insert holds nothing: its values are the row's, less what later changes replaced.
CREATE TABLE sync_history (
    at timestamptz NOT NULL DEFAULT now(),
    row_id uuid NOT NULL,
    entity text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    op text COLLATE "C" NOT NULL CHECK (op IN ('insert', 'update', 'delete')),
    author text NOT NULL,
    mutation uuid,
    xid bigint NOT NULL,
    old json,
    new json
) PARTITION BY RANGE (at);
CREATE TABLE sync_history_rest PARTITION OF sync_history DEFAULT;
-- Serves merges and the timeline of a row.
CREATE INDEX sync_history_row ON sync_history (row_id, rev);
-- Serves readers that follow all changes, such as sync_legacy.
-- (bigint, since xid8 has no BRIN operators: this index costs writers next to nothing.)
CREATE INDEX sync_history_xid ON sync_history USING brin (xid) WITH (pages_per_range = 16, autosummarize = on);

-- The answer to every mutation, by its id: what makes push idempotent.
CREATE TABLE sync_result (
    id uuid PRIMARY KEY,
    device uuid NOT NULL,
    digest uuid NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('applied', 'merged', 'conflict', 'rejected')),
    rev bigint,
    conflict uuid,
    errors json,
    at timestamptz NOT NULL DEFAULT now()
);
-- Serves prune.
CREATE INDEX sync_result_at ON sync_result USING brin (at) WITH (autosummarize = on);

-- When which transactions were still open: turns an age in days into a position, for prune.
CREATE TABLE sync_tick (at timestamptz PRIMARY KEY DEFAULT now(), horizon xid8 NOT NULL);

-- Which capture functions and triggers are installed for which entity.
CREATE TABLE sync_capture (
    entity text COLLATE "C" PRIMARY KEY,
    table_name text NOT NULL,
    digest text NOT NULL,
    wire_digest text NOT NULL
);
"""

DROP = """
DROP TABLE sync_epoch, sync_feed, sync_history, sync_result, sync_tick, sync_capture CASCADE;
"""


class Migration(migrations.Migration):
    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [migrations.RunSQL(TABLES, DROP)]
