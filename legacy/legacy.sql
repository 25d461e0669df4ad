-- name: fence
-- Held until the transaction ends: whoever takes the system over waits for it, and what comes after finds nothing.
SELECT 1 FROM legacy_counterpart WHERE system = %(system)s AND fence = %(fence)s FOR KEY SHARE

-- name: links
SELECT key, row::text, seen, hops FROM legacy_link
WHERE system = %(system)s AND mapping = %(mapping)s AND key = ANY (%(keys)s::text[])

-- name: agreed
SELECT key, agreed::text FROM legacy_link
WHERE system = %(system)s AND mapping = %(mapping)s AND key = ANY (%(keys)s::text[])

-- name: copy_links
COPY legacy_link (system, mapping, key, row, agreed, seen, parent, due) FROM STDIN

-- name: agree
-- Both sides look like this now; `hops` null: as it was.
UPDATE legacy_link l
SET agreed = v.agreed, seen = v.seen, agreed_at = now(), hops = coalesce(v.hops, l.hops), due = v.due
FROM json_to_recordset(%(links)s::json) AS v(key text, agreed jsonb, seen text, hops int, due boolean)
WHERE l.system = %(system)s AND l.mapping = %(mapping)s AND l.key = v.key

-- name: settle
-- These went well: what failed of them before is history.
DELETE FROM legacy_deadletter
WHERE system = %(system)s AND mapping = %(mapping)s AND direction = %(direction)s AND key = ANY (%(keys)s::text[])

-- name: lettered
-- Those of the keys that have a dead letter.
SELECT key FROM legacy_deadletter
WHERE system = %(system)s AND mapping = %(mapping)s AND direction = %(direction)s AND key = ANY (%(keys)s::text[])

-- name: forget
-- These rows, and what belongs to them, are no pair with a record any more. What was is kept for a rollback.
WITH gone AS (
    DELETE FROM legacy_link l
    WHERE l.system = %(system)s
      AND ((l.mapping = %(mapping)s AND l.row = ANY (%(rows)s::uuid[]))
           OR (l.mapping = %(members)s AND l.parent = ANY (%(rows)s::uuid[])))
    RETURNING *
)
INSERT INTO legacy_forgotten (run_id, system, mapping, key, row, agreed, parent)
SELECT %(run)s::uuid, system, mapping, key, row, agreed, parent FROM gone

-- name: forget_members
-- What belonged to these rows and does not any more.
WITH gone AS (
    DELETE FROM legacy_link l
    WHERE l.system = %(system)s AND l.mapping = %(mapping)s AND l.parent = ANY (%(parents)s::uuid[])
      AND NOT l.key = ANY (%(but)s::text[])
    RETURNING *
)
INSERT INTO legacy_forgotten (run_id, system, mapping, key, row, agreed, parent)
SELECT %(run)s::uuid, system, mapping, key, row, agreed, parent FROM gone

-- name: remember
-- The links of rows that a rollback has put back. Whoever has taken the key or the row meanwhile keeps it.
INSERT INTO legacy_link (system, mapping, key, row, agreed, seen, parent)
SELECT DISTINCT ON (f.mapping, f.row) f.system, f.mapping, f.key, f.row, f.agreed, '', f.parent
FROM legacy_forgotten f
WHERE f.run_id = %(run)s::uuid AND f.system = %(system)s AND f.row = ANY (%(rows)s::uuid[])
ORDER BY f.mapping, f.row, f.id
ON CONFLICT DO NOTHING

-- name: wait
-- A record that changed again before it was applied is applied once, as it is now, in its first place.
INSERT INTO legacy_waiting (system, mapping, key, values, marker, gone)
SELECT %(system)s, %(mapping)s, v.key, v.values, v.marker, v.gone
FROM json_to_recordset(%(records)s::json) AS v(key text, values jsonb, marker text, gone boolean)
ON CONFLICT (system, mapping, key) DO UPDATE
SET values = excluded.values, marker = excluded.marker, gone = excluded.gone, read_at = now()

-- name: waiting
SELECT count(*) FILTER (WHERE w.gone), count(*) FILTER (WHERE NOT w.gone AND l.id IS NOT NULL),
       count(*) FILTER (WHERE NOT w.gone AND l.id IS NULL),
       (SELECT count(*) FROM legacy_link t WHERE t.system = %(system)s AND t.mapping = %(mapping)s)
FROM legacy_waiting w
LEFT JOIN legacy_link l ON l.system = w.system AND l.mapping = w.mapping AND l.key = w.key
WHERE w.system = %(system)s AND w.mapping = %(mapping)s

-- name: waits_no_more
-- What was over there otherwise, or not at all, and is now as it was before.
DELETE FROM legacy_waiting WHERE system = %(system)s AND mapping = %(mapping)s AND key = ANY (%(keys)s::text[])

-- name: gone_no_more
-- What was missing when keys were compared before, and is among them now.
DELETE FROM legacy_waiting w USING legacy_sweptkey k
WHERE w.system = %(system)s AND w.mapping = %(mapping)s AND w.gone
  AND k.system = w.system AND k.mapping = w.mapping AND k.key = w.key

-- name: keys_begin
DELETE FROM legacy_sweptkey WHERE system = %(system)s AND mapping = %(mapping)s

-- name: keys_add
INSERT INTO legacy_sweptkey (system, mapping, key)
SELECT %(system)s, %(mapping)s, unnest(%(keys)s::text[]) ON CONFLICT DO NOTHING

-- name: keys_missing
-- What is linked and was not among the keys; a page in order of key.
SELECT l.key FROM legacy_link l
WHERE l.system = %(system)s AND l.mapping = %(mapping)s AND l.key > %(after)s
  AND NOT EXISTS (
      SELECT FROM legacy_sweptkey k WHERE k.system = l.system AND k.mapping = l.mapping AND k.key = l.key
  )
ORDER BY l.key LIMIT %(limit)s

-- name: rows
-- The rows of an entity that others than this system's runs changed and that were not visible in the snapshot yet at
-- which the last run looked, however late they were committed; a page in order of id.
SELECT DISTINCT h.row_id::text
FROM sync_history h
WHERE h.entity = %(entity)s AND h.author NOT LIKE %(own)s AND h.row_id > %(after)s
  AND h.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint
  AND NOT pg_visible_in_snapshot(h.xid::text::xid8, %(since)s::pg_snapshot)
ORDER BY 1
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
SELECT row_id::text FROM rows WHERE row_id > %(after)s ORDER BY row_id LIMIT %(limit)s

-- name: now
-- Where the history stands, and of which database: positions of another one mean nothing here.
SELECT pg_current_snapshot()::text, sync_database_identity()

-- name: last_authors
-- Who gave these fields of these rows their value, by the history: (row, field, author).
SELECT DISTINCT ON (w.row_id, w.field) w.row_id::text, w.field, h.author
FROM unnest(%(rows)s::uuid[], %(fields)s::text[]) AS w(row_id, field)
JOIN sync_history h ON h.row_id = w.row_id AND h.entity = %(entity)s
WHERE h.op = 'insert' OR h.new::jsonb ? w.field
ORDER BY w.row_id, w.field, h.rev DESC

-- name: revisions
SELECT DISTINCT f.row_id::text, f.rev FROM sync_feed f
WHERE f.entity = %(entity)s AND f.row_id = ANY (%(rows)s::uuid[])

-- name: written
-- What a run wrote, the newest first, and whether the row is as it left it; a page of rows.
SELECT h.entity, h.row_id::text, h.rev, h.op, h.old::text, h.hidden::text,
       h.rev = (SELECT max(t.rev) FROM sync_history t WHERE t.row_id = h.row_id AND t.entity = h.entity) AS last
FROM sync_history h
WHERE h.author = %(author)s AND h.entity = %(entity)s AND h.row_id > %(after)s AND h.at >= %(since)s
ORDER BY h.row_id, h.rev DESC
LIMIT %(limit)s

-- name: latest_runs
-- The last run of each of these systems; one look into the index for each, however many runs there were.
SELECT r.* FROM unnest(%(systems)s::text[]) AS n(system)
CROSS JOIN LATERAL (
    SELECT * FROM legacy_run r WHERE r.system = n.system AND r.trigger <> 'rollback' ORDER BY r.started_at DESC LIMIT 1
) r

-- name: forget_runs
-- The last run of each system stays: schedules count from it.
DELETE FROM legacy_run r
WHERE r.ended_at < %(before)s AND r.state <> 'running'
  AND EXISTS (
      SELECT FROM legacy_run l WHERE l.system = r.system AND l.started_at > r.started_at AND l.trigger <> 'rollback'
  )
