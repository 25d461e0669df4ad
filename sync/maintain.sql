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

-- name: forget_before
-- Tokens of before the newest tick that is old enough expire from now on. So nobody misses a tombstone that goes after this.
WITH old AS (
    SELECT max(horizon) AS horizon FROM sync_tick WHERE at < now() - make_interval(days => %(days)s)
), noted AS (
    UPDATE sync_epoch e SET forgotten_before = old.horizon FROM old WHERE old.horizon > e.forgotten_before RETURNING 1
)
DELETE FROM sync_tick t USING old WHERE t.horizon < old.horizon;

-- name: forget_tombstones
-- One that a writer is bringing back is passed over, since nobody may wait for this. Of rows that are gone altogether the
-- last revision stays, so that no revision is ever given twice.
WITH free AS (
    SELECT f.row_id, f.entity, f.scope FROM sync_feed f
    WHERE f.data IS NULL AND f.xid < (SELECT e.forgotten_before FROM sync_epoch e) ORDER BY f.xid LIMIT %(rows)s
    FOR UPDATE OF f SKIP LOCKED
), forgotten AS (
    DELETE FROM sync_feed f USING free g
    WHERE f.row_id = g.row_id AND f.entity = g.entity AND f.scope = g.scope RETURNING f.row_id, f.entity, f.rev
), last AS (
    INSERT INTO sync_forgotten (row_id, entity, rev)
    SELECT f.row_id, f.entity, max(f.rev) FROM forgotten f
    WHERE NOT EXISTS (SELECT FROM sync_feed o WHERE o.row_id = f.row_id AND o.entity = f.entity AND o.data IS NOT NULL)
    GROUP BY f.row_id, f.entity
    ON CONFLICT (row_id, entity) DO UPDATE SET rev = greatest(sync_forgotten.rev, excluded.rev), at = now()
)
SELECT count(*) FROM forgotten;

-- name: forget_grants
-- What was taken before any token that is still good.
DELETE FROM devices_granted g USING sync_epoch e WHERE g.until < e.forgotten_before;

-- name: forget_results
-- What is kept as a conflict or in quarantine is not forgotten: sent again, it would be applied beside its record.
WITH old AS (
    SELECT r.id FROM sync_result r
    WHERE r.at < now() - make_interval(days => %(days)s)
      AND NOT EXISTS (SELECT FROM sync_conflict c WHERE c.mutation = r.id)
      AND NOT EXISTS (SELECT FROM sync_rejection q WHERE q.mutation = r.id)
    LIMIT %(rows)s FOR UPDATE OF r SKIP LOCKED
), forgotten AS (
    DELETE FROM sync_result r USING old WHERE r.id = old.id RETURNING 1
)
SELECT count(*) FROM forgotten;

-- name: forget_operations
WITH old AS (
    SELECT o.number FROM sync_operation o WHERE o.ended_at < now() - make_interval(days => %(days)s)
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), forgotten AS (DELETE FROM sync_operation o USING old WHERE o.number = old.number RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: forget_outcomes
WITH old AS (
    SELECT o.number FROM sync_outcome o WHERE o.at < now() - make_interval(days => %(days)s)
    ORDER BY o.number LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), forgotten AS (DELETE FROM sync_outcome o USING old WHERE o.number = old.number RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: forget_mismatches
WITH old AS (
    SELECT m.ctid FROM sync_mismatch m WHERE m.at < now() - make_interval(days => %(days)s)
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), forgotten AS (DELETE FROM sync_mismatch m USING old WHERE m.ctid = old.ctid RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: forget_revisions
-- Of rows whose tombstones are forgotten, when their history is too.
WITH old AS (
    SELECT f.row_id, f.entity FROM sync_forgotten f WHERE f.at < now() - make_interval(days => %(days)s)
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM sync_forgotten f USING old WHERE f.row_id = old.row_id AND f.entity = old.entity RETURNING 1
)
SELECT count(*) FROM forgotten;

-- name: forget_healed
WITH old AS (
    SELECT h.row_id, h.entity, h.field, h.rev FROM sync_healed h WHERE h.at < now() - make_interval(days => %(days)s)
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM sync_healed h USING old
    WHERE h.row_id = old.row_id AND h.entity = old.entity AND h.field = old.field AND h.rev = old.rev RETURNING 1
)
SELECT count(*) FROM forgotten;

-- name: forget_alerts
-- Alerts that ended long ago with what was told of them, and messages that nobody needs to know of any more.
WITH alerts AS (
    SELECT a.id FROM sync_alert a WHERE a.cleared_at < now() - make_interval(days => %(days)s)
    LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), tellings AS (
    DELETE FROM sync_telling t USING alerts a WHERE t.alert_id = a.id
), messages AS (
    DELETE FROM sync_alertmessage m USING (
        SELECT o.number FROM sync_alertmessage o
        WHERE o.next_at IS NULL AND o.created_at < now() - make_interval(days => %(days)s) AND NOT EXISTS (
            SELECT FROM sync_telling t WHERE t.message_id = o.number AND t.alert_id NOT IN (SELECT id FROM alerts))
        LIMIT %(rows)s FOR UPDATE SKIP LOCKED
    ) old WHERE m.number = old.number
), forgotten AS (DELETE FROM sync_alert s USING alerts a WHERE s.id = a.id RETURNING 1)
SELECT count(*) FROM forgotten;

-- name: plan
-- What there is to forget, by kind and, of tombstones, by entity; `tokens`: devices that were last seen so long ago that
-- they load afresh.
WITH old AS (
    SELECT max(horizon) AS horizon FROM sync_tick WHERE at < now() - make_interval(days => %(tombstone_days)s)
)
SELECT 'tombstones', f.entity, count(*) FROM sync_feed f, sync_epoch e, old
WHERE f.data IS NULL AND f.xid < greatest(old.horizon, e.forgotten_before) GROUP BY f.entity
UNION ALL
SELECT 'answers', '', count(*) FROM sync_result r
WHERE r.at < now() - make_interval(days => %(result_days)s)
  AND NOT EXISTS (SELECT FROM sync_conflict c WHERE c.mutation = r.id)
  AND NOT EXISTS (SELECT FROM sync_rejection q WHERE q.mutation = r.id)
UNION ALL
SELECT 'operations', '', count(*) FROM sync_operation o WHERE o.ended_at < now() - make_interval(days => %(result_days)s)
UNION ALL
SELECT 'outcomes', '', count(*) FROM sync_outcome o WHERE o.at < now() - make_interval(days => %(history_days)s)
UNION ALL
SELECT 'tokens', '', count(*) FROM devices_device d
WHERE d.revoked_at IS NULL AND d.last_seen_at < now() - make_interval(days => %(tombstone_days)s)
ORDER BY 1, 2;

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
