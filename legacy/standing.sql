-- name: last_runs
-- Of each system its last run, and its last one that went well; from the index, however many runs there were.
SELECT s.system, l.id::text, g.ended_at
FROM unnest(%(systems)s::text[]) AS s(system)
LEFT JOIN LATERAL (
    SELECT r.id FROM legacy_run r WHERE r.system = s.system AND r.trigger <> 'rollback'
    ORDER BY r.started_at DESC LIMIT 1
) l ON true
LEFT JOIN LATERAL (
    SELECT r.ended_at FROM legacy_run r
    WHERE r.system = s.system AND r.trigger <> 'rollback' AND r.state IN ('done', 'partial')
    ORDER BY r.started_at DESC LIMIT 1
) g ON true;

-- name: days
-- Per day, the oldest first and none left out: runs, those that went wrong, seconds (median and longest), and records.
WITH days AS (
    SELECT generate_series(%(first)s::date, %(last)s::date, interval '1 day')::date AS day
), found AS (
    SELECT (r.started_at AT TIME ZONE %(zone)s)::date AS day, r.state,
           extract(epoch FROM r.ended_at - r.started_at) AS seconds, c.*
    FROM legacy_run r
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(w.value::bigint) FILTER (WHERE w.key IN ('created', 'updated', 'deleted')), 0) AS here,
               coalesce(sum(w.value::bigint) FILTER (
                   WHERE w.key IN ('created there', 'updated there', 'deleted there')), 0) AS there,
               coalesce(sum(w.value::bigint) FILTER (WHERE w.key = 'failed'), 0) AS failed,
               coalesce(sum(w.value::bigint) FILTER (WHERE w.key = 'unchanged'), 0) AS unchanged
        FROM jsonb_each(r.counts) m, jsonb_each_text(m.value) w
    ) c
    WHERE r.started_at >= %(first)s::date::timestamp AT TIME ZONE %(zone)s AND r.trigger <> 'rollback'
      AND (%(system)s::text IS NULL OR r.system = %(system)s)
)
SELECT d.day, count(f.day), count(f.day) FILTER (WHERE f.state NOT IN ('done', 'running', 'paused')),
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY f.seconds), 0)::float8, coalesce(max(f.seconds), 0)::float8,
       coalesce(sum(f.here), 0)::bigint, coalesce(sum(f.there), 0)::bigint, coalesce(sum(f.failed), 0)::bigint,
       coalesce(sum(f.unchanged), 0)::bigint
FROM days d LEFT JOIN found f USING (day)
GROUP BY d.day ORDER BY d.day;
