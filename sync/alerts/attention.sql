-- name: waiting
-- Per kind and entity: how many wait for a person, how many of them for too long, and since when the oldest does. What a
-- device called an entity that there is not is told under one name, however many it made up.
SELECT w.kind, n.entity, count(*), count(*) FILTER (WHERE w.created_at < w.late_before), min(w.created_at)
FROM (
    SELECT 'conflict' AS kind, c.entity, c.created_at, %(conflict_before)s::timestamptz AS late_before
    FROM sync_conflict c WHERE c.state = 'open'
    UNION ALL
    SELECT 'rejection', r.entity, r.created_at, %(rejection_before)s::timestamptz
    FROM sync_rejection r WHERE r.state = 'open'
) w
CROSS JOIN LATERAL (
    SELECT CASE WHEN w.entity = ANY (%(declared)s::text[]) THEN w.entity ELSE 'unknown' END AS entity
) n
WHERE %(entities)s::text[] IS NULL OR w.entity = ANY (%(entities)s::text[])
GROUP BY w.kind, n.entity
ORDER BY w.kind, n.entity;

-- name: waiting_of_devices
-- The same per device, those with the most first. A record may name a device that is not there any more.
SELECT w.device, coalesce(d.name, ''), count(*) FILTER (WHERE w.kind = 'conflict'),
       count(*) FILTER (WHERE w.kind = 'rejection'), min(w.created_at)
FROM (
    SELECT 'conflict' AS kind, c.device, c.entity, c.created_at FROM sync_conflict c WHERE c.state = 'open'
    UNION ALL
    SELECT 'rejection', r.device, r.entity, r.created_at FROM sync_rejection r WHERE r.state = 'open'
) w
LEFT JOIN devices_device d ON d.id = w.device
WHERE %(entities)s::text[] IS NULL OR w.entity = ANY (%(entities)s::text[])
GROUP BY w.device, d.name
ORDER BY count(*) DESC, min(w.created_at), w.device
LIMIT %(limit)s;

-- name: activity
-- Per day, the oldest first and none left out: mutations by how they were answered, what was refused, what was decided.
WITH days AS (
    SELECT generate_series(%(first)s::date, %(last)s::date, interval '1 day')::date AS day
), span AS MATERIALIZED (
    SELECT %(first)s::date::timestamp AT TIME ZONE %(zone)s AS since
), pushed AS (
    SELECT (r.at AT TIME ZONE %(zone)s)::date AS day,
           count(*) FILTER (WHERE r.status = 'applied') AS applied,
           count(*) FILTER (WHERE r.status = 'merged') AS merged,
           count(*) FILTER (WHERE r.status = 'conflict') AS conflict,
           count(*) FILTER (WHERE r.status = 'rejected') AS rejected
    FROM sync_result r WHERE r.at >= (SELECT since FROM span) GROUP BY 1
), decided AS (
    SELECT (d.at AT TIME ZONE %(zone)s)::date AS day, count(*) AS decisions
    FROM sync_decision d JOIN sync_conflict c ON c.id = d.conflict_id
    WHERE d.at >= (SELECT since FROM span) AND (%(entities)s::text[] IS NULL OR c.entity = ANY (%(entities)s::text[]))
    GROUP BY 1
), refused AS (
    SELECT (r.created_at AT TIME ZONE %(zone)s)::date AS day, count(*) AS rejections
    FROM sync_rejection r
    WHERE r.created_at >= (SELECT since FROM span)
      AND (%(entities)s::text[] IS NULL OR r.entity = ANY (%(entities)s::text[]))
    GROUP BY 1
)
SELECT day, coalesce(p.applied, 0), coalesce(p.merged, 0), coalesce(p.conflict, 0), coalesce(p.rejected, 0),
       coalesce(f.decisions, 0), coalesce(q.rejections, 0)
FROM days LEFT JOIN pushed p USING (day) LEFT JOIN decided f USING (day) LEFT JOIN refused q USING (day)
ORDER BY day;

-- name: answered_last_hour
SELECT r.status, count(*) FROM sync_result r WHERE r.at >= now() - interval '1 hour' GROUP BY r.status;
