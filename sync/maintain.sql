-- name: partitions
-- The history's partitions of this month and the two after it. What a late run of this finds in the default partition
-- is moved, so that it may run at any time.
DO $body$
DECLARE
    v_month date;
    v_name text;
BEGIN
    FOR v_month IN SELECT generate_series(date_trunc('month', now()), now() + interval '2 months', interval '1 month')::date LOOP
        v_name := 'sync_history_' || to_char(v_month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(v_name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE sync_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
        EXECUTE format('WITH moved AS (DELETE FROM sync_history_rest WHERE at >= %L AND at < %L RETURNING *)
                        INSERT INTO %I SELECT * FROM moved', v_month, v_month + interval '1 month', v_name);
        EXECUTE format('ALTER TABLE sync_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       v_name, v_month, v_month + interval '1 month');
    END LOOP;
END $body$;

-- name: tick
INSERT INTO sync_tick (horizon) VALUES (pg_snapshot_xmin(pg_current_snapshot())) ON CONFLICT DO NOTHING;

-- name: forget_tombstones
-- Tombstones of transactions that had ended before the newest tick that is old enough. One that a writer is bringing
-- back is passed over, since nobody may wait for this.
WITH old AS (
    SELECT max(horizon) AS horizon FROM sync_tick WHERE at < now() - make_interval(days => %(days)s)
), free AS (
    SELECT f.row_id, f.entity, f.scope FROM sync_feed f, old WHERE f.data IS NULL AND f.xid < old.horizon
    FOR UPDATE OF f SKIP LOCKED
), forgotten AS (
    DELETE FROM sync_feed f USING free g
    WHERE f.row_id = g.row_id AND f.entity = g.entity AND f.scope = g.scope RETURNING 1
), noted AS (
    UPDATE sync_epoch e SET forgotten_before = old.horizon FROM old WHERE old.horizon > e.forgotten_before RETURNING 1
), ticks AS (
    DELETE FROM sync_tick t USING old WHERE t.horizon < old.horizon RETURNING 1
)
SELECT count(*) FROM forgotten;

-- name: forget_grants
-- What was taken before any token that is still good.
DELETE FROM devices_granted g USING sync_epoch e WHERE g.until < e.forgotten_before;

-- name: forget_results
-- What is kept as a conflict or in quarantine is not forgotten: sent again, it would be applied beside its record.
WITH forgotten AS (
    DELETE FROM sync_result r
    WHERE r.at < now() - make_interval(days => %(days)s)
      AND NOT EXISTS (SELECT FROM sync_conflict c WHERE c.mutation = r.id)
      AND NOT EXISTS (SELECT FROM sync_rejection q WHERE q.mutation = r.id)
    RETURNING 1
)
SELECT count(*) FROM forgotten;

-- name: forget_operations
WITH forgotten AS (DELETE FROM sync_operation WHERE ended_at < now() - make_interval(days => %(days)s) RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: forget_outcomes
WITH forgotten AS (DELETE FROM sync_outcome WHERE at < now() - make_interval(days => %(days)s) RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: forget_mismatches
WITH forgotten AS (DELETE FROM sync_mismatch WHERE at < now() - make_interval(days => %(days)s) RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: old_partitions
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'sync_history'::regclass AND c.relname ~ '^sync_history_\d{4}_\d{2}$'
  AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' < now() - make_interval(days => %(days)s);

-- name: oldest_writer
-- Seconds since the oldest transaction began that has written and is still open, and the history partitions ahead.
SELECT coalesce(extract(epoch FROM (SELECT max(clock_timestamp() - a.xact_start) FROM pg_stat_activity a
                                    WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid())), 0)::float8,
       (SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'sync_history'::regclass AND c.relname > 'sync_history_' || to_char(now(), 'YYYY_MM')
          AND c.relname ~ '\d$');
