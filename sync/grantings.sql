-- How the rows of a deployment's own models grant scopes (`sync.declare.grants`): each has the grants that it should have
-- in devices_grant, under its own name as their source.

-- name: function
CREATE FUNCTION {{function}}() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $body$
DECLARE
    v_rows {{key_type}}[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM devices_grant g WHERE starts_with(g.source, {{prefix}});
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
{{locks_on_insert}}
        v_rows := ARRAY(SELECT n.{{key}} FROM new_rows n);
    ELSIF TG_OP = 'UPDATE' THEN
{{locks_on_update}}
        v_rows := ARRAY(
            SELECT coalesce(n.{{key}}, o.{{key}}) FROM old_rows o FULL JOIN new_rows n ON n.{{key}} = o.{{key}}
            WHERE o.{{key}} IS NULL OR n.{{key}} IS NULL OR record_image_ne(ROW({{old_columns}}), ROW({{new_columns}}))
        );
    ELSE
        v_rows := ARRAY(SELECT o.{{key}} FROM old_rows o);
    END IF;
    IF cardinality(v_rows) > 0 THEN
{{move}}
    END IF;
    RETURN NULL;
END $body$;

-- name: move
        WITH due AS MATERIALIZED (
            SELECT {{prefix}} || n.{{key}}::text AS source, ({{holder}})::{{holder_type}} AS holder, {{scope}} AS scope
            FROM {{table}} n WHERE n.{{key}} = ANY (v_rows)
        ), differs AS MATERIALIZED (
            SELECT g.id, w.source, w.holder, w.scope
            FROM (SELECT * FROM devices_grant o WHERE o.source <> '' AND o.source = ANY (
                      ARRAY(SELECT {{prefix}} || r::text FROM unnest(v_rows) r))) g
            FULL JOIN (SELECT * FROM due d WHERE d.holder IS NOT NULL AND length(d.scope) <= {{length_max}}) w
            ON w.source = g.source AND w.holder = g.{{holder_column}} AND w.scope = g.scope
            WHERE g.id IS NULL OR w.source IS NULL
        ), gone AS (
            DELETE FROM devices_grant g USING differs d WHERE g.id = d.id
        )
        INSERT INTO devices_grant (source, scope, {{holder_column}})
        SELECT d.source, d.scope, d.holder FROM differs d WHERE d.id IS NULL;

-- name: restamp
-- All of them: the first time, and when the declaration has changed.
DO $body$
DECLARE
    v_rows {{key_type}}[] := ARRAY(SELECT n.{{key}} FROM {{table}} n);
BEGIN
    DELETE FROM devices_grant g WHERE starts_with(g.source, {{prefix}})
        AND (g.{{holder_column}} IS NULL OR NOT EXISTS (SELECT FROM {{table}} n WHERE {{prefix}} || n.{{key}}::text = g.source));
{{move}}
END $body$;

-- name: triggers
CREATE TRIGGER {{insert_trigger}} AFTER INSERT ON {{table}}
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{function}}();
CREATE TRIGGER {{update_trigger}} AFTER UPDATE ON {{table}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {{function}}();
CREATE TRIGGER {{delete_trigger}} AFTER DELETE ON {{table}}
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {{function}}();
CREATE TRIGGER {{truncate_trigger}} AFTER TRUNCATE ON {{table}}
    FOR EACH STATEMENT EXECUTE FUNCTION {{function}}();
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{insert_trigger}};
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{update_trigger}};
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{delete_trigger}};
ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER {{truncate_trigger}};

-- name: retire
DELETE FROM devices_grant g WHERE starts_with(g.source, %(label)s || ':');
DELETE FROM sync_capture WHERE entity = %(label)s;
