-- How rows follow the rows that they refer to from scope to scope. Who writes a row that refers to others takes a lock on
-- these (KEY SHARE, as a foreign key does); who moves one of them takes a lock that waits for it (UPDATE) before looking for
-- the rows that follow. So each either sees what the other wrote, or is seen by it (docs/decisions/0010).

-- name: lock
-- Above READ COMMITTED a row that was moved since the snapshot has to be an error, as the snapshot shows its old scope.
    IF current_setting('transaction_isolation') = 'read committed' THEN
        PERFORM FROM {{table}} t WHERE t.{{key}} = ANY (ARRAY({{wanted}})) ORDER BY t.{{key}} FOR KEY SHARE;
    ELSE
        PERFORM FROM {{table}} t WHERE t.{{key}} = ANY (ARRAY({{wanted}})) ORDER BY t.{{key}} FOR SHARE;
    END IF;

-- name: function
-- After INSERT (a row may come after those that refer to it) and UPDATE of a table that paths of {{follower}} lead through.
CREATE FUNCTION {{follow_function}}() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $body$
DECLARE
    v_rows {{key_type}}[];
    v_xid xid8 := pg_current_xact_id();
BEGIN
{{steps}}
    RETURN NULL;
END $body$;

-- name: step
    IF TG_RELID = {{regclass}}::regclass THEN
        DECLARE
            v_moved {{moved_type}}[];
        BEGIN
            IF TG_OP = 'INSERT' THEN
                v_moved := ARRAY(SELECT n.{{key}} FROM new_rows n);
            ELSE
                v_moved := ARRAY(
                    SELECT coalesce(n.{{key}}, o.{{key}}) FROM old_rows o FULL JOIN new_rows n ON n.{{key}} = o.{{key}}
                    WHERE o.{{key}} IS NULL OR n.{{key}} IS NULL OR record_image_ne(ROW({{old_columns}}), ROW({{new_columns}}))
                );
                IF cardinality(v_moved) > 0 THEN
                    IF current_setting('transaction_isolation') <> 'read committed' THEN
                        RAISE feature_not_supported USING
                            MESSAGE = 'Rows of {{follower}} follow this row, and the snapshot of this transaction may be too old to see them',
                            HINT = 'Move it in a transaction with the isolation level READ COMMITTED.';
                    END IF;
                    PERFORM FROM {{table}} t WHERE t.{{key}} = ANY (v_moved) ORDER BY t.{{key}} FOR UPDATE;
                END IF;
            END IF;
            IF cardinality(v_moved) > 0 THEN
                v_rows := ARRAY(SELECT e.{{followers_key}} FROM {{followers}} e WHERE {{reach}});
                IF cardinality(v_rows) > 0 THEN
                    PERFORM FROM {{followers}} e WHERE e.{{followers_key}} = ANY (v_rows)
                    ORDER BY e.{{followers_key}} FOR NO KEY UPDATE;
{{locks}}
{{move}}
                END IF;
            END IF;
        END;
    END IF;

-- name: move
-- Into the scopes where the rows of v_rows belong, and out of the others. They did not change: revision and JSON stay.
-- (A full join, since it is never a nested loop, whatever the planner makes of the number of rows.)
                    WITH before AS MATERIALIZED (
                        SELECT f.row_id, max(f.rev) AS rev, max(f.data) AS data, array_agg(f.scope) AS scopes
                        FROM sync_feed f
                        WHERE f.row_id = ANY (v_rows) AND f.entity = {{entity_literal}} AND f.data IS NOT NULL
                        GROUP BY f.row_id
                    ), belong AS MATERIALIZED (
                        SELECT n.id, {{new_scopes}} AS scopes FROM {{followers}} n WHERE n.id = ANY (v_rows)
                    ), moved AS MATERIALIZED (
                        SELECT o.row_id, o.rev, o.data, o.scopes AS old, b.scopes AS new
                        FROM before o FULL JOIN belong b ON b.id = o.row_id
                        WHERE NOT (o.scopes @> b.scopes AND o.scopes <@ b.scopes)
                    ), entered AS (
                        INSERT INTO sync_feed (row_id, entity, scope, rev, xid, seq, data)
                        SELECT m.row_id, {{entity_literal}}, s.scope, m.rev, v_xid, nextval('sync_feed_seq'), m.data
                        FROM moved m CROSS JOIN LATERAL unnest(m.new) s(scope) WHERE s.scope <> ALL (m.old)
                        ON CONFLICT (row_id, entity, scope) DO UPDATE
                        SET rev = excluded.rev, xid = excluded.xid, seq = excluded.seq, data = excluded.data
                    )
                    UPDATE sync_feed f SET xid = v_xid, seq = nextval('sync_feed_seq'), data = NULL
                    FROM moved m CROSS JOIN LATERAL unnest(m.old) s(scope)
                    WHERE f.row_id = m.row_id AND f.entity = {{entity_literal}} AND f.scope = s.scope
                      AND s.scope <> ALL (m.new);

-- name: late
-- Rows in no scope whose parents were committed by another transaction after they were written, and before their own
-- transaction ended, when foreign keys are looked at: neither saw the other.
DO $body$
DECLARE
    v_xid xid8;
    v_rows uuid[] := ARRAY(
        SELECT n.id FROM sync_feed f JOIN {{followers}} n ON n.id = f.row_id
        WHERE f.scope = '' AND f.entity = {{entity_literal}} AND f.data IS NOT NULL AND {{new_scopes}} <> ARRAY['']
        LIMIT {{rows_max}});
BEGIN
    IF cardinality(v_rows) > 0 THEN
        v_xid := pg_current_xact_id();
        PERFORM FROM {{followers}} e WHERE e.id = ANY (v_rows) ORDER BY e.id FOR NO KEY UPDATE;
{{locks}}
{{move}}
    END IF;
END $body$;

-- name: triggers
-- After the capture of the same statement, by name.
CREATE TRIGGER {{insert_trigger}} AFTER INSERT ON {{table}}
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{follow_function}}();
CREATE TRIGGER {{update_trigger}} AFTER UPDATE ON {{table}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{follow_function}}();
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{insert_trigger}};
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{update_trigger}};
