-- name: pushed_by_device
-- Per day, the oldest first and none left out: the mutations of one device by how they were answered.
SELECT d.day::date, count(*) FILTER (WHERE r.status = 'applied'), count(*) FILTER (WHERE r.status = 'merged'),
       count(*) FILTER (WHERE r.status = 'conflict'), count(*) FILTER (WHERE r.status = 'rejected')
FROM generate_series(%(last)s::date - (%(days)s - 1), %(last)s::date, interval '1 day') AS d(day)
LEFT JOIN sync_result r ON r.device = %(device)s AND (r.at AT TIME ZONE %(zone)s)::date = d.day
     AND r.at >= (%(last)s::date - %(days)s)::timestamp AT TIME ZONE %(zone)s
GROUP BY d.day ORDER BY d.day;

-- name: count_seconds
-- Nobody waits longer than this for a count.
SELECT set_config('statement_timeout', %(seconds)s::int::text || 's', true);
