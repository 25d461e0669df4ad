-- name: first_epoch
INSERT INTO sync_epoch (database_identity) VALUES (sync_database_identity()) ON CONFLICT DO NOTHING;

-- name: standing
SELECT s.problem FROM sync_standing(%(epoch)s, pg_snapshot_xmax(%(base)s::pg_snapshot), %(witness)s) s;

-- name: new_start
-- The database server was started. Where its log ended and which transaction was next, the checkpoint of its start says,
-- which is its own redo point. If that is hidden by a later one, or by that of a crash that came after somebody's write,
-- nobody knows any more: then every token of before counts as lost, and what was written since begins with the first that
-- was. The control file has whole seconds.
WITH written AS MATERIALIZED (
    SELECT min(h.xid)::text::xid8 AS xid FROM sync_history h WHERE h.at >= pg_postmaster_start_time()
), start AS (
    SELECT c.checkpoint_lsn AS lsn, n.xid, c.redo_lsn <> c.checkpoint_lsn
           OR c.checkpoint_time >= date_trunc('second', pg_postmaster_start_time())
              AND coalesce((SELECT w.xid < n.xid FROM written w), false) AS late
    FROM pg_control_checkpoint() c CROSS JOIN LATERAL (
        SELECT (split_part(c.next_xid, ':', 1)::numeric * 4294967296 + split_part(c.next_xid, ':', 2)::numeric)::text::xid8 AS xid
    ) n
)
INSERT INTO sync_start (started_at, lsn, xid)
SELECT pg_postmaster_start_time(), CASE WHEN s.late THEN '0/0' ELSE s.lsn END,
       CASE WHEN s.late THEN least(s.xid, pg_snapshot_xmin(pg_current_snapshot()), (SELECT w.xid FROM written w)) ELSE s.xid END
FROM start s
WHERE pg_postmaster_start_time() IS DISTINCT FROM (SELECT s.started_at FROM sync_start s ORDER BY s.number DESC LIMIT 1)
ON CONFLICT DO NOTHING;

-- name: lock
-- One process at a time, and the others do not wait for it.
SELECT pg_try_advisory_xact_lock(hashtextextended('sync_epoch', 0));

-- name: new_epoch
-- From `since` on, what was written was written after the restore: from the start of the database server that a token of
-- the lost future does not know of, else from now.
WITH fork AS (
    SELECT CASE WHEN %(witness)s::text IS NULL THEN (pg_current_xact_id()::text::numeric + 1)::text::xid8 ELSE coalesce(
        (SELECT n.xid FROM sync_start s JOIN sync_start n ON n.number > s.number
         WHERE s.beacon = split_part(%(witness)s::text, ' ', 1) ORDER BY n.number LIMIT 1),
        (SELECT s.xid FROM sync_start s ORDER BY s.number DESC LIMIT 1)) END AS xid
)
UPDATE sync_epoch e
SET id = gen_random_uuid(), database_identity = sync_database_identity(), began_at = now(), forgotten_before = '0', since = fork.xid
FROM fork
WHERE e.id = %(seen)s::uuid OR %(seen)s::uuid IS NULL AND e.database_identity IS DISTINCT FROM sync_database_identity();

-- name: lock_feed
-- Who writes ends first, and nobody begins: rows are locked in the order of the files, which could not be kept to.
LOCK TABLE sync_feed IN SHARE ROW EXCLUSIVE MODE;

-- name: parts
-- The tables that hold positions, with their size in pages.
SELECT c.oid::regclass::text, (pg_relation_size(c.oid) / current_setting('block_size')::int)::int
FROM pg_class c
WHERE c.oid = 'sync_feed'::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sync_history'::regclass)
ORDER BY 1;

-- name: restamp
-- Positions that mean something else here: those of transactions that have not ended, or not even begun.
UPDATE {{table}} SET xid = pg_current_xact_id(){{cast}}
WHERE ctid >= format('(%%s,0)', %(first)s::int)::tid AND ctid < format('(%%s,0)', %(last)s::int)::tid
  AND xid >= pg_snapshot_xmin(pg_current_snapshot()){{cast}} AND xid <> pg_current_xact_id(){{cast}};

-- name: restamp_grants
-- No token of before is good any more, so that all that is granted may be granted now. Ticks are positions too.
DELETE FROM devices_granted WHERE until IS NOT NULL;
UPDATE devices_granted SET since = pg_current_xact_id();
DELETE FROM sync_tick;

-- name: plan
-- What a new epoch would mean: the epoch, how it stands, devices, entries of the feed and of the history.
SELECT (SELECT e.id FROM sync_epoch e), (SELECT s.problem = 'new_epoch' FROM sync_standing(NULL, NULL, NULL) s), (SELECT count(*) FROM devices_device WHERE revoked_at IS NULL),
       (SELECT count(*) FROM sync_feed), (SELECT count(*) FROM sync_history);
