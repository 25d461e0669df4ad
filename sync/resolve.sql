-- name: sides
-- Each row as it is now, with its last revision and the mutation of its newest change; of one that is not there, what
-- it held when it was deleted, if the history still knows.
SELECT w.entity, w.row_id::text, coalesce(f.rev, 0), f.data, n.mutation::text, d.old, d.hidden
FROM unnest(%(entities)s::text[], %(rows)s::uuid[]) AS w(entity, row_id)
LEFT JOIN LATERAL (
    SELECT max(o.rev) AS rev, (array_agg(o.data) FILTER (WHERE o.data IS NOT NULL))[1] AS data
    FROM sync_feed o WHERE o.row_id = w.row_id AND o.entity = w.entity
) f ON true
LEFT JOIN LATERAL (
    SELECT h.mutation FROM sync_history h WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.rev = f.rev
    ORDER BY h.at DESC LIMIT 1
) n ON true
LEFT JOIN LATERAL (
    SELECT h.old, h.hidden FROM sync_history h
    WHERE f.data IS NULL AND h.row_id = w.row_id AND h.entity = w.entity AND h.op = 'delete'
      AND (f.rev IS NULL OR h.rev = f.rev)
    ORDER BY h.at DESC LIMIT 1
) d ON true;

-- name: lock_devices
-- One after the other in order of id, so that two bulks cannot deadlock on them.
SELECT pg_advisory_xact_lock(hashtextextended(d.id::text, 0))
FROM (SELECT DISTINCT w.id FROM unnest(%(devices)s::uuid[]) w(id) ORDER BY w.id) d;

-- name: lock_from_references
-- So that no other row can come to refer to this one.
SELECT FROM {{table}} t WHERE t.id = %(row)s FOR UPDATE;

-- name: lock_conflicts
-- Two people decide about a conflict one after the other. In order of id, so that two bulks cannot deadlock on them.
SELECT FROM sync_conflict c WHERE c.id = ANY (%(ids)s::uuid[]) ORDER BY c.id FOR NO KEY UPDATE;

-- name: since
-- What became of a row after a revision, the newest first.
SELECT h.rev, h.op, h.old FROM sync_history h
WHERE h.row_id = %(row)s AND h.entity = %(entity)s AND h.rev > %(rev)s ORDER BY h.rev DESC;

-- name: deleted_with
-- The rows that went in the same transaction as a row, and have not come back since.
SELECT h.entity, h.row_id::text, h.old, h.hidden
FROM sync_history d JOIN sync_history h ON h.xid = d.xid AND h.at = d.at AND h.op = 'delete'
WHERE d.row_id = %(row)s AND d.entity = %(entity)s AND d.rev = %(rev)s AND d.op = 'delete'
  AND NOT EXISTS (SELECT FROM sync_history l WHERE l.row_id = h.row_id AND l.entity = h.entity AND l.rev > h.rev);

-- name: outcomes
-- The epoch, whether it is that of this database, and whether the cursor is of it; then each outcome after the cursor.
-- One row at least. A device sees its own only, and no revision of a row that none of its scopes has, or had.
SELECT e.id::text, e.database_identity IS NOT DISTINCT FROM sync_database_identity(), c.known, o.*
FROM sync_epoch e
CROSS JOIN LATERAL (SELECT e.id::text IS NOT DISTINCT FROM %(epoch)s::text AS known) c
LEFT JOIN LATERAL (
    SELECT o.number, o.mutation::text, o.entity, o.row_id::text, o.outcome,
           CASE WHEN EXISTS (SELECT FROM sync_feed f WHERE f.row_id = o.row_id AND f.entity = o.entity
                             AND f.scope = ANY (%(scopes)s::text[])) THEN o.rev END,
           o.by, o.comment, to_char(o.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM sync_outcome o
    WHERE o.device = %(device)s AND o.number > CASE WHEN c.known THEN %(number)s::bigint ELSE 0 END
    ORDER BY o.number LIMIT %(rows_max)s
) o ON true;

-- name: scopes
-- Every scope that any row is in, one probe of the index each.
WITH RECURSIVE found AS (
    (SELECT f.scope FROM sync_feed f ORDER BY f.scope LIMIT 1)
    UNION ALL
    SELECT (SELECT f.scope FROM sync_feed f WHERE f.scope > l.scope ORDER BY f.scope LIMIT 1) FROM found l WHERE l.scope IS NOT NULL
)
SELECT scope FROM found WHERE scope IS NOT NULL;

-- name: overtaken
-- Of each mutation that waits, the fields of its row that the device itself has changed after it, and whether it has made
-- the row after it. (Of those that came before revisions were noted: in later transactions.)
SELECT w.id::text, coalesce(array_agg(DISTINCT k.name) FILTER (WHERE k.name IS NOT NULL), '{}'), bool_or(h.op = 'insert')
FROM unnest(%(ids)s::uuid[]) w(id)
JOIN sync_rejection r ON r.id = w.id
JOIN sync_history h ON h.row_id = r.row_id AND h.entity = r.entity
    AND CASE WHEN r.row_rev IS NULL THEN h.at > r.created_at ELSE h.rev > r.row_rev END
    AND h.author = 'device:' || r.device::text AND h.op IN ('insert', 'update')
LEFT JOIN LATERAL json_object_keys(h.new) k(name) ON true
GROUP BY w.id;

-- name: when_made
-- When devices made their mutations, by the server's clock, where a policy asks for it.
SELECT r.id, r.made_at FROM sync_result r WHERE r.id = ANY (%(ids)s::uuid[]) AND r.made_at IS NOT NULL;
