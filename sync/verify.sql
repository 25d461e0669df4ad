-- name: count
SELECT count(*) FROM {{table}};

-- name: chunk_end
-- The id at which a chunk ends that begins after `low`: neither more rows than that in it, nor more rows in the feed.
-- NULL: it is the last.
SELECT least(
    (SELECT n.id FROM {{table}} n WHERE %(low)s::uuid IS NULL OR n.id > %(low)s::uuid
     ORDER BY n.id OFFSET %(rows)s LIMIT 1),
    (SELECT f.row_id FROM sync_feed f
     WHERE (%(low)s::uuid IS NULL OR f.row_id > %(low)s::uuid) AND f.entity = {{entity}} AND f.data IS NOT NULL
     ORDER BY f.row_id OFFSET %(rows)s LIMIT 1));

-- name: of_chunk
({{id}} > %(low)s::uuid OR %(low)s::uuid IS NULL) AND ({{id}} <= %(high)s::uuid OR %(high)s::uuid IS NULL)

-- name: of_ids
{{id}} = ANY (%(ids)s::uuid[])

-- name: differing
-- Rows whose feed entries may be wrong, with the problem where it is certain, and else the feed's JSON and the table's,
-- whose texts differ. One statement sees one moment, in which a row and its entries were written together.
WITH kept AS (
    SELECT f.row_id AS id, max(f.rev) AS rev, max(f.data) AS data, array_agg(f.scope ORDER BY f.scope) AS scopes,
           min(f.rev) <> max(f.rev) OR min(f.data) <> max(f.data) AS disagree
    FROM sync_feed f WHERE f.entity = {{entity}} AND f.data IS NOT NULL AND {{of_feed}}
    GROUP BY f.row_id
), compared AS (
    SELECT id, CASE
        WHEN k.rev IS NULL THEN 'missing'
        WHEN n.sync_present IS NULL THEN 'surplus'
        WHEN k.scopes IS DISTINCT FROM {{scopes}} THEN 'scope'
        WHEN k.disagree THEN 'revision' END AS problem,
        k.data, CASE WHEN n.sync_present THEN {{row}}::text END AS actual
    FROM kept k FULL JOIN (SELECT t.*, true AS sync_present FROM {{table}} t WHERE {{of_table}}) n USING (id)
)
SELECT c.id::text, c.problem, c.data, c.actual FROM compared c WHERE c.problem IS NOT NULL OR c.data <> c.actual;

-- name: lock
-- No writer of any entity may come between the comparison and the repair: a row's scopes may hang on other rows.
SET LOCAL lock_timeout = '{{lock_seconds}}s';
LOCK TABLE {{tables}} IN SHARE ROW EXCLUSIVE MODE;

-- name: repair
-- Captures these rows as they are, whatever their entries say. What cannot be read is not taken for what was there.
DO $body$
DECLARE
    v_author text := sync_author();
    v_mutations record := sync_mutations();
    v_xid xid8 := pg_current_xact_id();
    v_number bigint := v_xid::text::bigint;
BEGIN
    WITH before AS (
        SELECT f.row_id AS id, max(f.rev) AS rev,
               max(f.data) FILTER (WHERE NOT f.row_id = ANY (%(unreadable)s::uuid[])) AS data
        FROM sync_feed f WHERE f.entity = {{entity}} AND f.row_id = ANY (%(ids)s::uuid[]) GROUP BY f.row_id
    ), captured AS MATERIALIZED (
        SELECT id, r.rev, o.data::json AS old, CASE WHEN n.sync_present THEN {{new_row}} END AS new,
               CASE WHEN n.sync_present THEN {{new_scopes}} ELSE '{}' END AS scopes
        FROM unnest(%(ids)s::uuid[]) AS wrong(id)
        LEFT JOIN before o USING (id)
        LEFT JOIN (SELECT t.*, true AS sync_present FROM {{table}} t WHERE t.id = ANY (%(ids)s::uuid[])) n USING (id)
        CROSS JOIN LATERAL (SELECT coalesce(o.rev, 0) + 1 AS rev) r
    ), {{feed}}
END $body$;
