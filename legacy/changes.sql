-- name: rows
-- The rows of an entity that others than this system's runs changed and that were not visible in the snapshot yet at
-- which the last run looked, however late they were committed; a page in order of id.
SELECT DISTINCT h.row_id
FROM sync_history h
WHERE h.entity = %(entity)s AND h.author NOT LIKE %(own)s AND h.row_id > %(after)s
  AND h.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot) AND NOT pg_visible_in_snapshot(h.xid, %(since)s::pg_snapshot)
ORDER BY h.row_id
LIMIT %(limit)s

-- name: rows_and_members
-- The same where rows of another entity belong to them, as lines to an order: also the rows whose lines were changed,
-- moved elsewhere or deleted.
SELECT DISTINCT changed.row_id FROM (
    SELECT h.row_id, h.xid FROM sync_history h WHERE h.entity = %(entity)s AND h.author NOT LIKE %(own)s
    UNION ALL
    SELECT unnest(ARRAY[m.{{parent}}, (h.old ->> '{{parent}}')::uuid]), h.xid
    FROM sync_history h LEFT JOIN {{members}} m ON m.id = h.row_id
    WHERE h.entity = %(member)s AND h.author NOT LIKE %(own)s
) changed
WHERE changed.row_id > %(after)s
  AND changed.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
  AND NOT pg_visible_in_snapshot(changed.xid, %(since)s::pg_snapshot)
ORDER BY changed.row_id
LIMIT %(limit)s

-- name: now
-- Where the history stands, and of which database: positions of another one mean nothing here.
SELECT pg_current_snapshot()::text, sync_database_identity()
