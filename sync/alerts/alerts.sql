-- name: clear
-- What stands and was not found any more.
UPDATE sync_alert a SET cleared_at = %(now)s
WHERE a.cleared_at IS NULL AND NOT EXISTS (
    SELECT FROM jsonb_to_recordset(%(found)s::jsonb) AS f(kind text, subject text)
    WHERE f.kind = a.kind AND f.subject = a.subject)
RETURNING a.id;

-- name: raise
-- What was found and does not stand yet; of what stands, since when and how much it is now.
INSERT INTO sync_alert AS a (id, kind, subject, since, count, raised_at)
SELECT gen_random_uuid(), f.kind, f.subject, f.since, f.count, %(now)s
FROM jsonb_to_recordset(%(found)s::jsonb) AS f(kind text, subject text, since timestamptz, count int)
ON CONFLICT (kind, subject) WHERE cleared_at IS NULL DO UPDATE SET since = excluded.since, count = excluded.count
WHERE (a.since, a.count) IS DISTINCT FROM (excluded.since, excluded.count)
RETURNING a.id, a.raised_at = %(now)s;

-- name: untold
-- What a channel is to be told, the oldest first: alerts that stand, and the end of those whose beginning it was told.
-- A stuck device has to stay so for a while: one that just came back has its old outbox, and is about to push it. That
-- a channel fails is for the others.
SELECT a.id, t.what
FROM sync_alert a
CROSS JOIN LATERAL (SELECT CASE WHEN a.cleared_at IS NULL THEN 'raised' ELSE 'cleared' END AS what) t
WHERE CASE WHEN t.what = 'raised' THEN a.kind <> 'device_stuck' OR a.raised_at <= %(settled_before)s ELSE EXISTS (
          SELECT FROM sync_telling e WHERE e.alert_id = a.id AND e.channel_id = %(channel)s AND e.what = 'raised') END
  AND NOT EXISTS (
          SELECT FROM sync_telling e WHERE e.alert_id = a.id AND e.channel_id = %(channel)s AND e.what = t.what)
  AND NOT (a.kind = 'channel_failing' AND a.subject = %(channel)s)
ORDER BY a.raised_at, a.kind, a.since, a.id;

-- name: standing
-- What a channel was told and what still stands.
SELECT a.id FROM sync_alert a
WHERE a.cleared_at IS NULL AND EXISTS (
    SELECT FROM sync_telling e WHERE e.alert_id = a.id AND e.channel_id = %(channel)s AND e.what = 'raised')
ORDER BY a.raised_at, a.kind, a.since, a.id;

-- name: announce
-- Open conflicts that were not announced yet; one that was decided is announced anew when it is open again.
WITH over AS (
    DELETE FROM sync_announced a WHERE NOT EXISTS (
        SELECT FROM sync_conflict c WHERE c.id = a.conflict AND c.state = 'open')
), news AS (
    INSERT INTO sync_announced (conflict) SELECT c.id FROM sync_conflict c WHERE c.state = 'open'
    ON CONFLICT DO NOTHING RETURNING conflict
)
SELECT c.id::text, c.entity FROM news JOIN sync_conflict c ON c.id = news.conflict ORDER BY c.created_at, c.id;
