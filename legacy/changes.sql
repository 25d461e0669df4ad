-- name: rows
-- The rows of an entity that others than this system's runs changed and that were not visible in the snapshot yet at
-- which the last run looked, however late they were committed; a page in order of id.
SELECT DISTINCT h.row_id
FROM sync_history h
WHERE h.entity = %(entity)s AND h.author NOT LIKE %(own)s AND h.row_id > %(after)s
  AND h.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint
  AND NOT pg_visible_in_snapshot(h.xid::text::xid8, %(since)s::pg_snapshot)
ORDER BY h.row_id
LIMIT %(limit)s

-- name: rows_and_members
-- The same where rows of another entity belong to them, as lines to an order: also the rows whose lines were changed,
-- moved elsewhere or deleted.
WITH changed AS (
    SELECT h.entity, h.row_id, h.old
    FROM sync_history h
    WHERE h.entity IN (%(entity)s, %(member)s) AND h.author NOT LIKE %(own)s
      AND h.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint
      AND NOT pg_visible_in_snapshot(h.xid::text::xid8, %(since)s::pg_snapshot)
), rows AS (
    SELECT c.row_id FROM changed c WHERE c.entity = %(entity)s
    UNION
    SELECT unnest(ARRAY[m.{{parent}}, (c.old ->> '{{parent}}')::uuid])
    FROM changed c LEFT JOIN {{members}} m ON m.id = c.row_id
    WHERE c.entity = %(member)s
)
SELECT row_id FROM rows WHERE row_id > %(after)s ORDER BY row_id LIMIT %(limit)s

-- name: now
-- Where the history stands, and of which database: positions of another one mean nothing here.
SELECT pg_current_snapshot()::text, sync_database_identity()
