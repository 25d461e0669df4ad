-- name: row_now
-- A row as devices see it, whatever scope it is in, and its last revision; no row where it never was or is forgotten.
SELECT max(f.rev), max(f.data) FROM sync_feed f WHERE f.row_id = %(row)s AND f.entity = %(entity)s HAVING max(f.rev) > 0;

-- name: rows_at
-- What a row was at each of these revisions: what later changes of the same life replaced, over what it is now.
SELECT w.rev, (CASE WHEN ending.rev IS NULL THEN coalesce(f.data::jsonb, '{}') ELSE '{}' END || coalesce(said.old, '{}'))::text
FROM unnest(%(revs)s::bigint[]) AS w(rev)
CROSS JOIN LATERAL (
    SELECT min(h.rev) AS rev FROM sync_history h
    WHERE h.row_id = %(row)s AND h.entity = %(entity)s AND h.rev > w.rev AND h.op = 'delete'
) ending
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(k.key, k.value) AS old FROM (
        SELECT DISTINCT ON (e.key) e.key, e.value
        FROM sync_history h CROSS JOIN LATERAL jsonb_each(h.old::jsonb) e
        WHERE h.row_id = %(row)s AND h.entity = %(entity)s AND h.rev > w.rev
          AND (ending.rev IS NULL OR h.rev <= ending.rev)
        ORDER BY e.key, h.rev
    ) k
) said
LEFT JOIN LATERAL (
    SELECT o.data FROM sync_feed o
    WHERE o.row_id = %(row)s AND o.entity = %(entity)s AND o.data IS NOT NULL LIMIT 1
) f ON true;

-- name: devices_of_row
-- The devices that are granted a scope that holds the row, or held it when it was deleted, those that are behind first;
-- with how many there are and how many of them made the change or called after it.
WITH holding AS (
    SELECT f.scope FROM sync_feed f
    WHERE f.row_id = %(row)s AND f.entity = %(entity)s AND f.rev = (
        SELECT max(o.rev) FROM sync_feed o WHERE o.row_id = %(row)s AND o.entity = %(entity)s)
), granted AS (
    SELECT g.device_id AS id, h.scope FROM devices_grant g JOIN holding h USING (scope) WHERE g.device_id IS NOT NULL
    UNION
    SELECT d.id, h.scope FROM devices_grant g JOIN holding h USING (scope) JOIN devices_device d ON d.user_id = g.user_id
), held AS (
    SELECT d.id, d.name, d.last_seen_at, d.pending, d.oldest_pending_at,
           coalesce(d.last_seen_at > %(at)s OR d.id = %(by)s::uuid, false) AS called, array_agg(g.scope ORDER BY g.scope) AS scopes
    FROM granted g JOIN devices_device d ON d.id = g.id
    WHERE d.revoked_at IS NULL
    GROUP BY d.id
)
SELECT h.id, h.name, h.last_seen_at, h.pending, h.oldest_pending_at, h.called, h.scopes,
       count(*) OVER (), count(*) FILTER (WHERE h.called) OVER ()
FROM held h ORDER BY h.called, h.last_seen_at DESC NULLS LAST, h.name LIMIT %(limit)s;
