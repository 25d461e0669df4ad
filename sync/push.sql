-- name: lock_device
-- One push of a device at a time: a resend waits for the first, and then finds its results. No push waits for ever.
SELECT set_config('lock_timeout', %(seconds)s::int::text || 's', true),
       pg_advisory_xact_lock(hashtextextended(%(device)s::uuid::text, 0));

-- name: remembered
SELECT r.id::text, replace(r.digest::text, '-', ''), r.status, r.rev, r.conflict::text, r.errors::text
FROM sync_result r WHERE r.id = ANY (%(ids)s::uuid[]);

-- name: lock_rows
-- In order of id, so that two pushes cannot deadlock on them.
SELECT FROM {{table}} t WHERE t.id = ANY (%(rows)s::uuid[]) ORDER BY t.id FOR NO KEY UPDATE;

-- name: row_states
-- What is known of each row, for a device with these scopes; a row that never was is left out.
SELECT w.entity, w.row_id::text, f.rev, f.alive, f.known
FROM unnest(%(entities)s::text[], %(rows)s::uuid[]) AS w(entity, row_id) {{state}};

-- name: settle
-- After a write: remember the results, and tell of each row for which no granted scope shows the state expected of it.
WITH remembered AS (
    INSERT INTO sync_result (id, device, digest, status, rev)
    SELECT w.id, %(device)s, w.digest, 'applied', w.rev
    FROM unnest(%(ids)s::uuid[], %(digests)s::uuid[], %(revs)s::bigint[]) AS w(id, digest, rev)
)
SELECT e.entity, e.row_id::text
FROM (
    SELECT w.entity, w.row_id, w.rev, w.deleted
    FROM unnest(%(entities)s::text[], %(rows)s::uuid[], %(revs)s::bigint[], %(deleted)s::boolean[])
         AS w(entity, row_id, rev, deleted)
    EXCEPT -- never by a nested loop, whatever the planner knows of a feed that was empty a moment ago
    SELECT f.entity, f.row_id, f.rev, f.data IS NULL
    FROM sync_feed f WHERE f.scope = ANY (%(scopes)s::text[]) AND f.xid = pg_current_xact_id()
) e;

-- name: correct_revisions
-- Of results that were remembered with another revision than the row has in fact.
UPDATE sync_result r SET rev = w.rev
FROM unnest(%(ids)s::uuid[], %(revs)s::bigint[]) AS w(id, rev) WHERE r.id = w.id AND r.rev <> w.rev;

-- name: state
-- A row's last revision, whether it is there, and whether this device may know of it: it is in a granted scope, or was
-- when it was deleted.
CROSS JOIN LATERAL (
    SELECT max(o.rev) AS rev, bool_or(o.data IS NOT NULL) AS alive,
           CASE WHEN bool_or(o.data IS NOT NULL) THEN coalesce(bool_or(o.data IS NOT NULL) FILTER (WHERE g.granted), false)
                ELSE coalesce(max(o.rev) FILTER (WHERE g.granted) = max(o.rev), false) END AS known
    FROM sync_feed o CROSS JOIN LATERAL (SELECT o.scope = ANY (%(scopes)s::text[]) AS granted) g
    WHERE o.row_id = w.row_id AND o.entity = w.entity
) f
WHERE f.rev IS NOT NULL

-- name: foreign_revisions
-- The last revision of each row that neither this device nor this batch made. Where the history does not reach back to
-- the base any more, every revision counts as foreign.
SELECT w.entity, w.row_id::text,
       CASE WHEN count(h.rev) < f.rev - w.base THEN f.rev
            ELSE coalesce(max(h.rev) FILTER (WHERE h.author <> %(author)s AND NOT coalesce(h.mutation = ANY (%(ids)s::uuid[]), false)), 0) END,
       coalesce((array_agg(h.author ORDER BY h.rev DESC))[1] = %(author)s, false)
FROM jsonb_to_recordset(%(keys)s::jsonb) AS w(entity text, row_id uuid, base bigint)
CROSS JOIN LATERAL (SELECT max(o.rev) AS rev FROM sync_feed o WHERE o.row_id = w.row_id AND o.entity = w.entity) f
LEFT JOIN sync_history h ON h.row_id = w.row_id AND h.entity = w.entity AND h.rev > w.base
GROUP BY w.entity, w.row_id, w.base, f.rev;

-- name: copy_rows
COPY {{table}} ({{columns}}) FROM STDIN;

-- name: update_rows
UPDATE {{table}} t SET {{assignments}} FROM ROWS FROM ({{records}}) AS v WHERE t.id = v.id;

-- name: check_constraints
-- References may be written in any order up to here.
SET CONSTRAINTS ALL IMMEDIATE

-- name: rows_for_device
SELECT DISTINCT ON (f.entity, f.row_id) f.entity, f.row_id::text, f.data
FROM jsonb_to_recordset(%(keys)s::jsonb) AS w(entity text, row_id uuid)
JOIN sync_feed f ON f.row_id = w.row_id AND f.entity = w.entity
WHERE f.scope = ANY (%(scopes)s::text[]) AND f.data IS NOT NULL;

-- name: base_values
-- The fields of a row as they were at a revision: for each field the oldest "old" value since, else what it is now.
SELECT w.id, jsonb_object_agg(k.key, coalesce(
    (SELECT h.old::jsonb -> k.key FROM sync_history h
     WHERE h.row_id = w.row_id AND h.entity = w.entity AND h.rev > w.base AND h.old::jsonb ? k.key
     ORDER BY h.rev LIMIT 1), f.data::jsonb -> k.key))::text
FROM jsonb_to_recordset(%(keys)s::jsonb) AS w(id text, entity text, row_id uuid, base bigint, fields jsonb)
CROSS JOIN LATERAL jsonb_array_elements_text(w.fields) k(key)
LEFT JOIN LATERAL (
    SELECT o.data FROM sync_feed o WHERE o.row_id = w.row_id AND o.entity = w.entity AND o.data IS NOT NULL LIMIT 1
) f ON true
GROUP BY w.id;

-- name: remember
INSERT INTO sync_result (id, device, digest, status, rev, conflict, errors)
SELECT v.id, %(device)s, v.digest, v.status, v.rev, v.conflict, v.errors
FROM jsonb_to_recordset(%(results)s::jsonb) AS v(
    id uuid, digest uuid, status text, rev bigint, conflict uuid, errors json);
