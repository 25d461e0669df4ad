-- name: lock_device
-- One push of a device at a time: a resend waits for the first, and then finds its results. No push waits for ever.
-- Whether something that the device sent before this, and did not wait for, has not been applied yet; and how many changes
-- it has sent in this hour and on this day, these included. Those that it did not wait for were counted when they came.
SELECT set_config('lock_timeout', %(seconds)s::int::text || 's', true),
       pg_advisory_xact_lock(hashtextextended(%(device)s::uuid::text, 0)),
       EXISTS (SELECT FROM sync_operation o WHERE o.device = %(device)s AND o.ended_at IS NULL AND o.number < %(before)s),
       CASE WHEN %(count)s > 0
            THEN devices_count(%(device)s, %(kind)s, %(count)s::int, %(hour_max)s::int, %(day_max)s::int) END;

-- name: remembered
-- As it was answered: a conflict's state is the one that it had before anybody decided.
SELECT r.id::text, replace(r.digest::text, '-', ''), r.status, r.rev, r.conflict::text,
       coalesce((SELECT d.state_before FROM sync_decision d WHERE d.conflict_id = c.id ORDER BY d.at LIMIT 1), c.state),
       r.errors::text
FROM sync_result r LEFT JOIN sync_conflict c ON c.mutation = r.id AND r.status IN ('conflict', 'merged')
WHERE r.id = ANY (%(ids)s::uuid[]);

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
    INSERT INTO sync_result (id, device, digest, status, rev, made_at)
    SELECT w.id, %(device)s, w.digest, 'applied', w.rev, w.made_at
    FROM unnest(%(ids)s::uuid[], %(digests)s::uuid[], %(applied_revs)s::bigint[], %(made_at)s::timestamptz[])
         AS w(id, digest, rev, made_at)
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

-- name: takes_along_unseen
-- Whether this transaction has deleted any row that no granted scope has seen: then a delete took it along.
SELECT EXISTS (
    SELECT FROM sync_feed f
    WHERE f.xid = pg_current_xact_id() AND f.data IS NULL
      AND NOT EXISTS (SELECT FROM sync_feed o WHERE o.row_id = f.row_id AND o.entity = f.entity
                      AND (o.data IS NOT NULL OR (o.rev = f.rev AND o.scope = ANY (%(scopes)s::text[]))))
);

-- name: moves_unseen
-- Whether this transaction has taken any row along, into another scope, that no granted scope had shown. A row that was
-- taken along has entries of this transaction in the feed, but none in the history.
SELECT EXISTS (
    SELECT FROM (
        SELECT f.row_id, f.entity FROM sync_feed f WHERE f.xid = pg_current_xact_id() AND f.data IS NULL
        UNION
        SELECT f.row_id, f.entity FROM sync_feed f WHERE f.xid = pg_current_xact_id() AND f.scope = ANY (%(scopes)s::text[])
    ) m
    WHERE NOT EXISTS (SELECT FROM sync_history h WHERE h.row_id = m.row_id AND h.entity = m.entity
                      AND h.xid = pg_current_xact_id()::text::bigint)
      AND NOT EXISTS (SELECT FROM sync_feed o WHERE o.row_id = m.row_id AND o.entity = m.entity
                      AND o.scope = ANY (%(scopes)s::text[]) AND (o.data IS NULL) = (o.xid = pg_current_xact_id()))
);

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

-- name: since
-- Of each row and base: whether this device deleted the row, the row as it is, and what others did to it after the base,
-- as JSON (`sync.merge.Since`). Others are who is neither this device nor in this batch, and a function that mixed what
-- this device sent with what it had not seen. A device that adds to a counter has not written over what others did to
-- it. What was brought back after a restore, up to a lost revision that the device had seen, is its own too. A history that does not have each revision after the base does not know.
WITH wanted AS MATERIALIZED (
    SELECT w.n, w.entity, w.row_id, w.base, w.timed, w.seen, f.rev, f.data
    FROM unnest(%(entities)s::text[], %(rows)s::uuid[], %(bases)s::bigint[], %(timed)s::boolean[], %(seen)s::bigint[])
         WITH ORDINALITY AS w(entity, row_id, base, timed, seen, n)
    CROSS JOIN LATERAL (
        SELECT max(o.rev) AS rev, max(o.data) AS data FROM sync_feed o WHERE o.row_id = w.row_id AND o.entity = w.entity
    ) f
), entries AS MATERIALIZED (
    SELECT w.n, w.entity, h.rev, h.op, h.old, h.hidden, coalesce(r.made_at, h.at) AS at, o.own, c.mixed
    FROM wanted w
    JOIN sync_history h ON h.row_id = w.row_id AND h.entity = w.entity AND h.rev > w.base
    LEFT JOIN sync_result r ON (w.timed OR w.seen > 0) AND r.id = h.mutation
    CROSS JOIN LATERAL (
        -- What comes after a lost deletion had brought the row back, so that this stands against it.
        SELECT h.author = %(author)s OR coalesce(h.mutation = ANY (%(ids)s::uuid[]), false)
               OR coalesce(r.lost BETWEEN 1 AND w.seen AND h.op <> 'delete', false) AS own
    ) o
    LEFT JOIN sync_conflict c ON o.own AND c.mutation = h.mutation
), changes AS (
    SELECT c.*, max(c.rev) FILTER (WHERE c.own AND NOT c.counter) OVER (PARTITION BY c.n, c.key) AS last_own
    FROM (
        SELECT e.n, e.rev, e.at, e.op, v.key, v.value, e.own AND NOT coalesce(v.key = ANY (e.mixed), false) AS own,
               e.entity || '.' || v.key = ANY (%(counters)s::text[]) AS counter
        FROM entries e CROSS JOIN LATERAL jsonb_each(e.old::jsonb) v WHERE e.old IS NOT NULL
    ) c
), fields AS (
    SELECT c.n, c.key, (array_agg(c.value ORDER BY c.rev))[1] AS base,
           (array_agg(c.at ORDER BY c.rev DESC) FILTER (WHERE c.op = 'update'))[1] AS at
    FROM changes c WHERE NOT c.own AND c.rev > coalesce(c.last_own, 0) GROUP BY c.n, c.key
), rows AS (
    SELECT f.n, jsonb_object_agg(f.key, f.base) AS base,
           coalesce(jsonb_object_agg(f.key, f.at) FILTER (WHERE f.at IS NOT NULL), '{}') AS changed
    FROM fields f GROUP BY f.n
), gone AS (
    SELECT DISTINCT ON (e.n) e.n, e.old, e.hidden, e.own FROM entries e WHERE e.op = 'delete' ORDER BY e.n, e.rev DESC
), made AS (
    -- A row that this device has deleted since, and made again, is its own.
    SELECT e.n, count(*) AS entries,
           max(e.at) FILTER (WHERE e.op = 'insert' AND NOT e.own AND e.rev > e.deleted) AS at
    FROM (
        SELECT o.*, coalesce(max(o.rev) FILTER (WHERE o.own AND o.op = 'delete') OVER (PARTITION BY o.n), 0) AS deleted
        FROM entries o
    ) e GROUP BY e.n
)
SELECT w.entity, w.row_id::text, w.base, coalesce(gone.own AND w.data IS NULL, false), w.data,
       json_build_object('known', coalesce(made.entries, 0) = w.rev - w.base, 'made', made.at,
                         'changed', coalesce(rows.changed, '{}'), 'base', coalesce(rows.base, '{}'),
                         'gone', CASE WHEN w.data IS NULL THEN gone.old END,
                         'hidden', CASE WHEN w.data IS NULL THEN gone.hidden END)::text
FROM wanted w LEFT JOIN rows USING (n) LEFT JOIN gone USING (n) LEFT JOIN made USING (n)
WHERE w.rev IS NOT NULL;

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

-- name: remember
INSERT INTO sync_result (id, device, digest, status, rev, conflict, errors, made_at)
SELECT v.id, %(device)s, v.digest, v.status, v.rev, v.conflict, v.errors, v.made_at
FROM jsonb_to_recordset(%(results)s::jsonb) AS v(
    id uuid, digest uuid, status text, rev bigint, conflict uuid, errors json, made_at timestamptz);
