-- name: forks
-- Of each row: its revision when this database was restored; what has been brought back since, by field: the last revision
-- that wrote it, and those that added to it; and which of the mutations it has in its history. Nothing where the database never was restored.
SELECT w.entity, w.row_id::text,
       coalesce((SELECT min(h.rev) - 1 FROM sync_history h
                 WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.xid >= e.since::text::bigint),
                (SELECT max(f.rev) FROM sync_feed f WHERE f.row_id = w.row_id AND f.entity = w.entity), 0),
       coalesce((SELECT json_object_agg(s.field, s.rev)
                 FROM (SELECT b.field, max(b.rev) AS rev FROM sync_healed b
                       WHERE b.row_id = w.row_id AND b.entity = w.entity AND b.amount IS NULL GROUP BY b.field) s), '{}')::text,
       coalesce((SELECT json_object_agg(a.field, a.revs)
                 FROM (SELECT b.field, json_agg(json_build_array(b.rev, b.amount::text)) AS revs FROM sync_healed b
                       WHERE b.row_id = w.row_id AND b.entity = w.entity AND b.amount IS NOT NULL GROUP BY b.field) a), '{}')::text,
       ARRAY(SELECT h.mutation::text FROM sync_history h
             WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.mutation = ANY (%(ids)s::uuid[]))
FROM unnest(%(entities)s::text[], %(rows)s::uuid[]) AS w(entity, row_id) CROSS JOIN sync_epoch e
WHERE e.since IS NOT NULL;

-- name: note
-- The answers to what was brought back, and by field the revisions.
WITH noted AS (
    UPDATE sync_result r SET lost = w.lost
    FROM unnest(%(ids)s::uuid[], %(revs)s::bigint[]) AS w(id, lost) WHERE r.id = w.id
)
INSERT INTO sync_healed (row_id, entity, field, rev, amount)
SELECT w.row_id, w.entity, w.field, w.rev, sum(w.amount)
FROM jsonb_to_recordset(%(healed)s::jsonb) AS w(row_id uuid, entity text, field text, rev bigint, amount numeric)
GROUP BY w.row_id, w.entity, w.field, w.rev
ON CONFLICT (row_id, entity, field, rev) DO UPDATE SET amount = sync_healed.amount + excluded.amount, at = now();

-- name: deleted_as
-- What these rows were when they were last deleted: an edit that came back after the deletion had come before it.
UPDATE sync_history h SET old = w.old
FROM json_to_recordset(%(rows)s::json) AS w(entity text, row_id uuid, old json)
WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.op = 'delete'
  AND h.rev = (SELECT max(d.rev) FROM sync_history d WHERE d.row_id = w.row_id AND d.entity = w.entity AND d.op = 'delete');

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
