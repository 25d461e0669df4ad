-- name: insert_function
-- After INSERT: every new row gets its feed entries and a history row. A row that was here before goes on counting.
-- (Plans are kept for the session: one made while the feed was small must not read all of it when it has grown.)
CREATE OR REPLACE FUNCTION {{insert_function}}() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $body$
DECLARE
    v_author text := sync_author();
    v_mutations record := sync_mutations();
    v_xid xid8 := pg_current_xact_id();
    v_number bigint := v_xid::text::bigint;
    v_rows uuid[] := ARRAY(SELECT n.id FROM new_rows n);
BEGIN
{{locks}}
    -- Nearly always every row is new to the feed, and then nothing has to be kept of them between the two tables.
    IF NOT EXISTS (SELECT FROM sync_feed f WHERE f.row_id = ANY (v_rows) AND f.entity = {{entity}})
       AND (NOT EXISTS (SELECT FROM sync_forgotten)
            OR NOT EXISTS (SELECT FROM sync_forgotten f WHERE f.row_id = ANY (v_rows) AND f.entity = {{entity}})) THEN
        INSERT INTO sync_feed (row_id, entity, scope, rev, xid, seq, data)
        SELECT n.id, {{entity}}, s.scope, 1, v_xid, nextval('sync_feed_seq'), {{first_row}}::text
        FROM new_rows n CROSS JOIN LATERAL unnest({{new_scopes}}) s(scope);
        INSERT INTO sync_history (row_id, entity, rev, op, author, mutation, xid)
        SELECT n.id, {{entity}}, 1, 'insert', v_author, m.id, v_number
        FROM new_rows n
        LEFT JOIN unnest(v_mutations.row_ids, v_mutations.ids) AS m(row_id, id) ON m.row_id = n.id;
        RETURN NULL;
    END IF;
    WITH captured AS MATERIALIZED (
        SELECT n.id, r.rev, {{row_now}}::text AS new, {{scopes_now}} AS scopes
        FROM new_rows n CROSS JOIN LATERAL (
            SELECT greatest(max(f.rev), (SELECT g.rev FROM sync_forgotten g
                                         WHERE g.row_id = n.id AND g.entity = {{entity}}), 0) + 1 AS rev,
                   coalesce(bool_or(f.xid = v_xid), false) AS again, n.id AS row_id
            FROM sync_feed f WHERE f.row_id = n.id AND f.entity = {{entity}}
        ) r
        WHERE NOT r.again OR EXISTS (SELECT FROM {{table}} t WHERE t.id = n.id)
    ), fed AS (
        INSERT INTO sync_feed (row_id, entity, scope, rev, xid, seq, data)
        SELECT c.id, {{entity}}, s.scope, c.rev, v_xid, nextval('sync_feed_seq'), c.new
        FROM captured c CROSS JOIN LATERAL unnest(c.scopes) s(scope)
        ON CONFLICT (row_id, entity, scope) DO UPDATE
        SET rev = excluded.rev, xid = excluded.xid, seq = excluded.seq, data = excluded.data
    )
    INSERT INTO sync_history (row_id, entity, rev, op, author, mutation, xid)
    SELECT c.id, {{entity}}, c.rev, 'insert', v_author, m.id, v_number
    FROM captured c
    LEFT JOIN unnest(v_mutations.row_ids, v_mutations.ids) AS m(row_id, id) ON m.row_id = c.id;
    RETURN NULL;
END $body$;

-- name: row_now
-- Of a row that this transaction has captured before what the table has by now: a trigger of somebody else's may have
-- changed the row again, and that was captured before the statement that it came after.
(CASE WHEN r.again THEN (SELECT {{new_row}} FROM {{table}} n WHERE n.id = r.row_id) ELSE {{new_row}} END)

-- name: scopes_now
(CASE WHEN r.again THEN (SELECT {{new_scopes}} FROM {{table}} n WHERE n.id = r.row_id) ELSE {{new_scopes}} END)

-- name: update_function
-- After UPDATE: rows whose wire fields or scopes changed, byte by byte. A changed id is a delete and an insert.
CREATE OR REPLACE FUNCTION {{update_function}}() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $body$
DECLARE
    v_author text := sync_author();
    v_mutations record := sync_mutations();
    v_xid xid8 := pg_current_xact_id();
    v_number bigint := v_xid::text::bigint;
BEGIN
{{locks}}
    WITH captured AS MATERIALIZED (
        SELECT id, r.rev, CASE WHEN o.id IS NOT NULL THEN {{old_row}} END AS old,
               CASE WHEN n.id IS NOT NULL THEN {{row_now}} END AS new,
               CASE WHEN n.id IS NOT NULL THEN {{scopes_now}} ELSE '{}' END AS scopes
        FROM old_rows o FULL JOIN new_rows n USING (id) CROSS JOIN LATERAL (
            SELECT coalesce(max(f.rev), 0) + 1 AS rev, coalesce(bool_or(f.xid = v_xid), false) AS again, id AS row_id
            FROM sync_feed f WHERE f.row_id = id AND f.entity = {{entity}}
        ) r
        WHERE (o.id IS NULL OR n.id IS NULL OR record_image_ne(ROW({{old_columns}}), ROW({{new_columns}})))
          AND (NOT r.again OR n.id IS NULL OR EXISTS (SELECT FROM {{table}} t WHERE t.id = n.id))
    ), {{feed}}
    RETURN NULL;
END $body$;

-- name: delete_function
-- After DELETE, and before TRUNCATE (which has no transition table: there all rows are still in place).
CREATE OR REPLACE FUNCTION {{delete_function}}() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $body$
DECLARE
    v_author text := sync_author();
    v_mutations record := sync_mutations();
    v_xid xid8 := pg_current_xact_id();
    v_number bigint := v_xid::text::bigint;
BEGIN
    WITH captured AS MATERIALIZED (
        SELECT o.id, r.rev, {{old_row}} AS old, {{hidden_row}} AS hidden
        FROM {{source}} o CROSS JOIN LATERAL (
            SELECT coalesce(max(f.rev), 0) + 1 AS rev FROM sync_feed f WHERE f.row_id = o.id AND f.entity = {{entity}}
        ) r
    ), gone AS (
        UPDATE sync_feed f SET rev = c.rev, xid = v_xid, seq = nextval('sync_feed_seq'), data = NULL
        FROM captured c WHERE f.row_id = c.id AND f.entity = {{entity}} AND f.data IS NOT NULL
    )
    INSERT INTO sync_history (row_id, entity, rev, op, author, mutation, xid, old, hidden)
    SELECT c.id, {{entity}}, c.rev, 'delete', v_author, m.id, v_number, c.old, c.hidden
    FROM captured c
    LEFT JOIN unnest(v_mutations.row_ids, v_mutations.ids) AS m(row_id, id) ON m.row_id = c.id;
    RETURN NULL;
END $body$;

-- name: restamp
-- Compares every row with the feed and captures what differs: the first time, and when the wire form has changed.
DO $body$
DECLARE
    v_author text := sync_author();
    v_mutations record := sync_mutations();
    v_xid xid8 := pg_current_xact_id();
    v_number bigint := v_xid::text::bigint;
BEGIN
    WITH before AS (
        SELECT f.row_id AS id, max(f.rev) AS rev, min(f.data) AS data,
               array_agg(f.scope ORDER BY f.scope) FILTER (WHERE f.data IS NOT NULL) AS scopes
        FROM sync_feed f WHERE f.entity = {{entity}} GROUP BY f.row_id
    ), captured AS MATERIALIZED (
        SELECT id, r.rev, o.data::json AS old, CASE WHEN n.id IS NOT NULL THEN {{new_row}} END AS new,
               CASE WHEN n.id IS NOT NULL THEN {{new_scopes}} ELSE '{}' END AS scopes
        FROM before o FULL JOIN {{table}} n USING (id) CROSS JOIN LATERAL (SELECT coalesce(o.rev, 0) + 1 AS rev) r
        WHERE (o.data IS NOT NULL OR n.id IS NOT NULL)
          AND (o.data IS NULL OR n.id IS NULL OR o.scopes IS DISTINCT FROM {{new_scopes}}
               OR o.data::jsonb - '_rev' <> {{new_row}}::jsonb - '_rev')
    ), {{feed}}
END $body$;

-- name: feed_of_captured
-- What UPDATE and restamp share: from captured(id, rev, old, new, scopes) to the feed and the history.
stayed AS (
        INSERT INTO sync_feed AS f (row_id, entity, scope, rev, xid, seq, data)
        SELECT c.id, {{entity}}, s.scope, c.rev, v_xid, nextval('sync_feed_seq'), c.new::text
        FROM captured c CROSS JOIN LATERAL unnest(c.scopes) s(scope)
        ON CONFLICT (row_id, entity, scope) DO UPDATE
        SET rev = excluded.rev, xid = excluded.xid, seq = excluded.seq, data = excluded.data
    ), gone AS (
        UPDATE sync_feed f SET rev = c.rev, xid = v_xid, seq = nextval('sync_feed_seq'), data = NULL
        FROM captured c
        WHERE f.row_id = c.id AND f.entity = {{entity}} AND f.data IS NOT NULL AND NOT f.scope = ANY (c.scopes)
    )
    INSERT INTO sync_history (row_id, entity, rev, op, author, mutation, xid, old, new)
    SELECT c.id, {{entity}}, c.rev,
           CASE WHEN c.new IS NULL THEN 'delete' WHEN c.old IS NULL THEN 'insert' ELSE 'update' END,
           v_author, m.id, v_number,
           CASE WHEN c.new IS NULL THEN c.old ELSE d.old END, d.new
    FROM captured c
    LEFT JOIN unnest(v_mutations.row_ids, v_mutations.ids) AS m(row_id, id) ON m.row_id = c.id
    CROSS JOIN LATERAL (
        SELECT json_object_agg(key, a.value) FILTER (WHERE a.key IS NOT NULL) AS old,
               json_object_agg(key, b.value) FILTER (WHERE b.key IS NOT NULL) AS new
        FROM jsonb_each(c.old::jsonb) a FULL JOIN jsonb_each(c.new::jsonb) b USING (key)
        WHERE c.old IS NOT NULL AND a.value IS DISTINCT FROM b.value AND key <> '_rev'
    ) d;

-- name: triggers
-- ENABLE ALWAYS: a table that is filled by logical replication is captured too.
CREATE OR REPLACE TRIGGER sync_capture_insert AFTER INSERT ON {{table}}
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{insert_function}}();
CREATE OR REPLACE TRIGGER sync_capture_update AFTER UPDATE ON {{table}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{update_function}}();
CREATE OR REPLACE TRIGGER sync_capture_delete AFTER DELETE ON {{table}}
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {{delete_function}}();
CREATE OR REPLACE TRIGGER sync_capture_truncate BEFORE TRUNCATE ON {{table}}
    FOR EACH STATEMENT EXECUTE FUNCTION {{truncate_function}}();
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER sync_capture_insert;
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER sync_capture_update;
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER sync_capture_delete;
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER sync_capture_truncate;

-- name: retire_entity
-- An entity that is no longer declared: its rows leave every device.
UPDATE sync_feed SET rev = rev + 1, xid = pg_current_xact_id(), seq = nextval('sync_feed_seq'), data = NULL
WHERE entity = %(entity)s AND data IS NOT NULL;
DELETE FROM sync_capture WHERE entity = %(entity)s;

-- name: installed
-- Per entity: the digests it was installed with, how many triggers are in force that call its functions, and their source.
SELECT c.entity, c.digest, c.wire_digest, coalesce(sum(p.triggers), 0)::int, coalesce(string_agg(p.prosrc, '' ORDER BY p.proname::text COLLATE "C"), '')
FROM sync_capture c LEFT JOIN LATERAL (
    SELECT p.proname, p.prosrc, (SELECT count(*) FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgenabled = 'A') AS triggers
    FROM pg_proc p
    WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY (
        ARRAY(SELECT 'sync_capture_' || c.entity || '_' || op FROM unnest(ARRAY['insert', 'update', 'delete', 'truncate']) op)
        || ARRAY['sync_follow_' || c.entity, 'sync_grants_' || c.entity])
) p ON true
GROUP BY c.entity;

-- name: remember
INSERT INTO sync_capture (entity, table_name, digest, wire_digest)
VALUES (%(entity)s, %(table)s, %(digest)s, %(wire_digest)s)
ON CONFLICT (entity) DO UPDATE
SET table_name = excluded.table_name, digest = excluded.digest, wire_digest = excluded.wire_digest;

-- name: author
-- Transaction-local, so it ends with the transaction and needs no session (PgBouncer).
SELECT set_config('sync.author', %(author)s, true), set_config('sync.rows', %(rows)s, true),
       set_config('sync.mutations', %(mutations)s, true);
