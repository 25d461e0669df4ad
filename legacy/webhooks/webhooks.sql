-- name: claim
-- Records whose time has come, or those of one operation, with everything else that waits about the same records: they
-- are taken up together, so nothing about a record overtakes something older. Who else is claiming is passed over.
WITH due AS (
    SELECT h.mapping, h.key FROM legacy_hint h
    WHERE h.system = %(system)s AND h.state = 'waiting' AND h.mapping <> ALL (%(closed)s::text[])
      AND CASE WHEN %(operation)s::uuid IS NULL THEN h.next_at <= %(now)s
               ELSE h.operation_id = %(operation)s AND h.claim IS NULL END
    ORDER BY h.id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), mine AS (
    SELECT h.id FROM legacy_hint h
    WHERE h.system = %(system)s AND h.state = 'waiting' AND (h.mapping, h.key) IN (SELECT mapping, key FROM due)
    FOR UPDATE SKIP LOCKED
)
UPDATE legacy_hint h SET claim = %(claim)s, attempts = attempts + 1, next_at = %(until)s
FROM mine WHERE h.id = mine.id
RETURNING h.id

-- name: settle
-- What came again meanwhile (its claim is gone) goes on waiting. A hint that is repeated and brings no news keeps what
-- became of it first.
UPDATE legacy_hint h
SET state = 'done', done_at = statement_timestamp(), error = '',  -- after the link's `agreed_at`
    outcome = CASE WHEN v.outcome = 'unchanged' AND h.outcome <> '' THEN h.outcome ELSE v.outcome END
FROM json_to_recordset(%(settled)s::json) AS v(id bigint, outcome text)
WHERE h.id = v.id AND h.claim = %(claim)s AND h.state = 'waiting'

-- name: again
-- The same body without an id came again. It may tell of another change, so what was done is done again; what nobody
-- has begun with will be done anyway.
UPDATE legacy_hint SET state = 'waiting', claim = NULL, attempts = 0, next_at = %(next_at)s
WHERE operation_id = %(operation)s AND (state <> 'waiting' OR claim IS NOT NULL)

-- name: newest
-- Of these records, when the newest event that was applied happened, and when that was applied here.
SELECT DISTINCT ON (h.key) h.key, h.at, h.done_at FROM legacy_hint h
WHERE h.system = %(system)s AND h.mapping = %(mapping)s AND h.key = ANY (%(keys)s) AND h.state = 'done'
  AND h.outcome NOT IN ('superseded', 'left_to_run') AND h.at IS NOT NULL
ORDER BY h.key, h.at DESC, h.id DESC

-- name: agreed_at
SELECT key, agreed_at FROM legacy_link WHERE system = %(system)s AND mapping = %(mapping)s AND key = ANY (%(keys)s)

-- name: forget
-- What is finished, and came so long ago that nobody sends it again.
WITH old AS (
    SELECT o.id FROM legacy_operation o
    WHERE o.came_at < %(before)s
      AND NOT EXISTS (SELECT FROM legacy_hint h WHERE h.operation_id = o.id AND h.state <> 'done')
), hints AS (
    DELETE FROM legacy_hint h USING old WHERE h.operation_id = old.id
)
DELETE FROM legacy_operation o USING old WHERE o.id = old.id

-- name: take_subscription
-- One whose time has come and that nobody else delivers to.
UPDATE legacy_subscription SET claim = %(claim)s, leased_until = %(until)s
WHERE id = (
    SELECT s.id FROM legacy_subscription s
    WHERE s.enabled AND s.stopped_at IS NULL AND s.next_at <= %(now)s AND s.id <> ALL (%(served)s::uuid[])
      AND (s.leased_until IS NULL OR s.leased_until <= %(now)s)
    ORDER BY s.next_at, s.id LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id

-- name: standing
-- Which database this is, whether it was restored or replaced, whether a position is too old for it (tombstones that it
-- has not seen may be forgotten) or of its future, and what is committed now.
SELECT e.id, e.database_identity IS DISTINCT FROM sync_database_identity(),
       coalesce(bool_or(pg_snapshot_xmin(p.position) < e.forgotten_before
                        OR pg_snapshot_xmax(p.position) > pg_snapshot_xmax(pg_current_snapshot())), false),
       pg_current_snapshot()::text
FROM sync_epoch e LEFT JOIN unnest(%(positions)s::text[]::pg_snapshot[]) AS p(position) ON true
GROUP BY e.id, e.database_identity

-- name: page
-- What comes next of a run of pages, in the order of the feed. As in `sync_pull`, what was open in `base` is read one
-- transaction after the other, and then all that began later, so the cost is that of what changed. A tombstone is not
-- told where another of the scopes holds the row. A page ends where it was once cut (`to`).
WITH RECURSIVE every AS (
    (SELECT f.scope FROM sync_feed f WHERE %(all)s ORDER BY f.scope LIMIT 1)
    UNION ALL
    SELECT (SELECT f.scope FROM sync_feed f WHERE f.scope > e.scope ORDER BY f.scope LIMIT 1) FROM every e
    WHERE e.scope IS NOT NULL
), wanted AS (
    SELECT scope FROM every WHERE scope IS NOT NULL UNION SELECT unnest(%(scopes)s::text[])
), range AS (
    SELECT x AS low, x AS high FROM pg_snapshot_xip(%(base)s::pg_snapshot) x
    UNION ALL
    SELECT coalesce(pg_snapshot_xmax(%(base)s::pg_snapshot), '0'::xid8), '18446744073709551615'::xid8
), start AS (
    SELECT r.high, greatest(r.low, %(at_xid)s::xid8) AS xid,
           CASE WHEN %(at_xid)s::xid8 >= r.low THEN %(at_seq)s::bigint ELSE -1 END AS seq
    FROM range r
), entry AS (
    SELECT found.* FROM wanted w CROSS JOIN start s CROSS JOIN LATERAL (
        SELECT f.entity, f.row_id, f.rev, f.xid, f.seq, f.data FROM sync_feed f
        WHERE f.scope = w.scope AND f.xid <= s.high AND (f.xid, f.seq) > (s.xid, s.seq)
          AND (%(to_xid)s::xid8 IS NULL OR (f.xid, f.seq) <= (%(to_xid)s::xid8, %(to_seq)s::bigint))
          AND pg_visible_in_snapshot(f.xid, %(target)s::pg_snapshot)
          AND f.entity = ANY (%(entities)s::text[])
          AND (f.data IS NOT NULL OR %(base)s::pg_snapshot IS NOT NULL AND NOT EXISTS (
              SELECT FROM sync_feed o WHERE o.row_id = f.row_id AND o.entity = f.entity AND o.data IS NOT NULL
              AND (%(all)s OR o.scope = ANY (%(scopes)s::text[]))))
        ORDER BY f.xid, f.seq LIMIT %(rows)s
    ) found
    ORDER BY found.xid, found.seq LIMIT %(rows)s
), sized AS (
    SELECT e.*, octet_length(coalesce(e.data, '')) + 100 AS own,
           sum(octet_length(coalesce(e.data, '')) + 100) OVER (ORDER BY e.xid, e.seq ROWS UNBOUNDED PRECEDING) AS size
    FROM entry e
)
SELECT z.entity, z.row_id::text, z.rev, z.xid::text, z.seq, CASE WHEN %(with_rows)s THEN z.data END, z.data IS NULL
FROM sized z
WHERE z.size - z.own < %(bytes)s
ORDER BY z.xid, z.seq

