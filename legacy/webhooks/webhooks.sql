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
