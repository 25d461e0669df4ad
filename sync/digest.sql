-- name: snapshot
-- What follows in the transaction sees one moment, however many statements it takes.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: held
-- The rows that a device with these scopes must hold. One that is in several of them counts once.
SELECT DISTINCT ON (f.entity, f.row_id) f.entity, f.row_id AS id, f.rev
FROM sync_feed f
WHERE f.scope = ANY (%(scopes)s) AND f.entity = ANY (%(entities)s) AND f.data IS NOT NULL
ORDER BY f.entity, f.row_id, f.rev DESC

-- name: lines
-- Entity and line of each row, in byte order of its id (which is the order of a uuid). Read with a cursor: one sort.
SELECT h.entity, h.id || ' ' || h.rev || E'\n' FROM ({{held}}) h ORDER BY h.entity, h.id;

-- name: lines_by_bucket
SELECT b.bucket, h.id || ' ' || h.rev || E'\n'
FROM ({{held}}) h CROSS JOIN LATERAL (SELECT get_byte(sha256(convert_to(h.id::text, 'UTF8')), 0) AS bucket) b
ORDER BY b.bucket, h.id;

-- name: bucket
-- The rows of one bucket, a page at a time.
SELECT h.id::text, h.rev FROM ({{held}}) h
WHERE get_byte(sha256(convert_to(h.id::text, 'UTF8')), 0) = %(bucket)s
  AND (%(after)s::uuid IS NULL OR h.id > %(after)s::uuid)
ORDER BY h.id LIMIT %(rows_max)s + 1;

-- name: rows
-- The `changes` of a pull for the rows that a device asks for, and whether some did not fit. What it may not see is
-- looked up in the same way as what does not exist.
WITH found AS (
    SELECT a.entity, a.id, a.place, h.data, octet_length(coalesce(h.data, '')) + 40 AS size
    FROM unnest(%(entities)s::text[], %(ids)s::uuid[]) WITH ORDINALITY AS a(entity, id, place)
    LEFT JOIN LATERAL (
        SELECT f.data FROM sync_feed f
        WHERE f.row_id = a.id AND f.entity = a.entity AND f.scope = ANY (%(scopes)s) AND f.data IS NOT NULL
        ORDER BY f.rev DESC LIMIT 1
    ) h ON true
), sized AS (
    SELECT f.*, sum(f.size) OVER (ORDER BY f.place ROWS UNBOUNDED PRECEDING) - f.size < %(bytes_max)s AS fits FROM found f
), told AS (
    SELECT s.entity, coalesce(string_agg(s.data, ','), '') AS upserts,
           coalesce(string_agg('"' || s.id || '"', ',') FILTER (WHERE s.data IS NULL), '') AS deletes
    FROM sized s WHERE s.fits GROUP BY s.entity
)
SELECT (SELECT '{' || coalesce(string_agg('"' || t.entity || '":{"upserts":[' || t.upserts || '],"deletes":[' || t.deletes
                                          || ']}', ','), '') || '}' FROM told t),
       EXISTS (SELECT FROM sized s WHERE NOT s.fits);
