-- name: forks
-- Of each row: its revision when this database was restored, what has been brought back since, by field, and which of
-- the mutations it has in its history. Nothing where the database never was restored.
SELECT w.entity, w.row_id::text,
       coalesce((SELECT min(h.rev) - 1 FROM sync_history h
                 WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.xid >= e.since::text::bigint),
                (SELECT max(f.rev) FROM sync_feed f WHERE f.row_id = w.row_id AND f.entity = w.entity), 0),
       coalesce((SELECT json_object_agg(b.field, b.rev) FROM sync_healed b
                 WHERE b.row_id = w.row_id AND b.entity = w.entity), '{}')::text,
       ARRAY(SELECT h.mutation::text FROM sync_history h
             WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.mutation = ANY (%(ids)s::uuid[]))
FROM unnest(%(entities)s::text[], %(rows)s::uuid[]) AS w(entity, row_id) CROSS JOIN sync_epoch e
WHERE e.since IS NOT NULL;

-- name: note
-- The answers to what was brought back, and by field the last revision that was.
WITH noted AS (
    UPDATE sync_result r SET lost = w.lost
    FROM unnest(%(ids)s::uuid[], %(revs)s::bigint[]) AS w(id, lost) WHERE r.id = w.id
)
INSERT INTO sync_healed (row_id, entity, field, rev)
SELECT w.row_id, w.entity, w.field, max(w.rev)
FROM jsonb_to_recordset(%(healed)s::jsonb) AS w(row_id uuid, entity text, field text, rev bigint)
GROUP BY w.row_id, w.entity, w.field
ON CONFLICT (row_id, entity, field) DO UPDATE SET rev = greatest(sync_healed.rev, excluded.rev), at = now();

-- name: unknown
-- Of these mutations those that a restore has lost; none where there was no restore, since answers are forgotten too.
SELECT w.id::text FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS w(id, place)
WHERE EXISTS (SELECT FROM sync_epoch e WHERE e.since IS NOT NULL)
  AND NOT EXISTS (SELECT FROM sync_result r WHERE r.id = w.id)
ORDER BY w.place;

-- name: there
-- Of these rows those that there are.
SELECT DISTINCT f.entity, f.row_id::text
FROM unnest(%(entities)s::text[], %(rows)s::uuid[]) AS w(entity, row_id)
JOIN sync_feed f ON f.row_id = w.row_id AND f.entity = w.entity
WHERE f.data IS NOT NULL;
