-- Kept up to date by `migrate`. {users}, {user_key} and {user_type} are those of the deployment's own user model.

-- Who a token belongs to. PL/pgSQL, which keeps its plan: it is asked with every call.
-- The device of a person who is not active counts as revoked.
--
-- A device that rotated its token has two: the older one goes on until the newer one was used, and some seconds more
-- (devices/enroll.py). last_seen_at is NULL where the call is to be noted at once: at the first use of the newer one.
DROP FUNCTION IF EXISTS devices_identity(bytea);
CREATE FUNCTION devices_identity(token_hash bytea)
RETURNS TABLE (
    id uuid, name text, user_id {user_type}, revoked boolean, wipe boolean, last_seen_at timestamptz, pending integer
)
LANGUAGE plpgsql STABLE ROWS 1 SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT d.id, d.name::text, d.user_id, d.revoked_at IS NOT NULL OR u.is_active IS FALSE, d.wipe,
           CASE WHEN d.token_hash = devices_identity.token_hash AND d.old_token_hash IS NOT NULL
                     AND d.old_token_until IS NULL
                THEN NULL ELSE d.last_seen_at END,
           d.pending
    FROM devices_device d
    LEFT JOIN {users} u ON u.{user_key} = d.user_id
    WHERE d.id = (
        SELECT n.id FROM devices_device n WHERE n.token_hash = devices_identity.token_hash
        UNION ALL -- and no OR, which two indexes serve by a bitmap only
        SELECT o.id FROM devices_device o
        WHERE o.old_token_hash = devices_identity.token_hash AND coalesce(o.old_token_until > now(), true)
        LIMIT 1
    );
END $$;

-- What is granted to a device, itself or through its user: in byte order, each once.
CREATE OR REPLACE FUNCTION devices_scopes(device uuid) RETURNS text[] LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN ARRAY(SELECT g.scope FROM devices_granted g WHERE g.device_id = device AND g.until IS NULL ORDER BY g.scope);
END $$;

-- Bring the log of what was granted to these devices, and from when until when, in step with their grants and those of
-- their users. Its positions are transactions, as those of the feed, so that a pull token says what had been granted
-- when. The lock makes two that take the last two grants of one scope see each other.
CREATE OR REPLACE FUNCTION devices_note_granted(p_devices uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_xid xid8 := pg_current_xact_id();
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING
            MESSAGE = 'The snapshot of this transaction may be too old to see everything that is granted',
            HINT = 'Grant and revoke in a transaction with the isolation level READ COMMITTED.';
    END IF;
    PERFORM FROM devices_device d WHERE d.id = ANY (p_devices) ORDER BY d.id FOR NO KEY UPDATE;
    WITH due AS MATERIALIZED (
        SELECT d.id AS device_id, g.scope FROM devices_device d JOIN devices_grant g ON g.device_id = d.id
        WHERE d.id = ANY (p_devices)
        UNION
        SELECT d.id, g.scope FROM devices_device d JOIN devices_grant g ON g.user_id = d.user_id
        WHERE d.id = ANY (p_devices)
    ), ended AS (
        UPDATE devices_granted g SET until = v_xid
        WHERE g.device_id = ANY (p_devices) AND g.until IS NULL
          AND NOT EXISTS (SELECT FROM due WHERE due.device_id = g.device_id AND due.scope = g.scope)
    ), taken_back AS (
        -- What this very transaction has ended goes on as if nothing had been.
        UPDATE devices_granted g SET until = NULL
        FROM due WHERE due.device_id = g.device_id AND due.scope = g.scope AND g.until = v_xid
    )
    INSERT INTO devices_granted (device_id, scope, since)
    SELECT due.device_id, due.scope, v_xid FROM due
    WHERE NOT EXISTS (SELECT FROM devices_granted g WHERE g.device_id = due.device_id AND g.scope = due.scope
                      AND (g.until IS NULL OR g.until = v_xid));
END $$;

-- After a statement on the grants. A device that becomes one of a user's locks the user too, so neither misses the other.
CREATE OR REPLACE FUNCTION devices_grants_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_users {user_type}[];
    v_devices uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(DISTINCT c.user_id) FILTER (WHERE c.user_id IS NOT NULL), array_agg(DISTINCT c.device_id)
        INTO v_users, v_devices FROM new_rows c;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(DISTINCT c.user_id) FILTER (WHERE c.user_id IS NOT NULL), array_agg(DISTINCT c.device_id)
        INTO v_users, v_devices FROM old_rows c;
    ELSE
        SELECT array_agg(DISTINCT c.user_id) FILTER (WHERE c.user_id IS NOT NULL), array_agg(DISTINCT c.device_id)
        INTO v_users, v_devices FROM (SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows) c;
    END IF;
    IF v_users IS NOT NULL THEN
        PERFORM FROM {users} u WHERE u.{user_key} = ANY (v_users) ORDER BY u.{user_key} FOR UPDATE;
        v_devices := v_devices || ARRAY(SELECT d.id FROM devices_device d WHERE d.user_id = ANY (v_users));
    END IF;
    IF v_devices IS NOT NULL THEN
        PERFORM devices_note_granted(v_devices);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION devices_holder_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {users} u WHERE u.{user_key} = NEW.user_id FOR KEY SHARE;
    PERFORM devices_note_granted(ARRAY[NEW.id]);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER devices_granted_by_insert AFTER INSERT ON devices_grant
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION devices_grants_changed();
CREATE OR REPLACE TRIGGER devices_granted_by_update AFTER UPDATE ON devices_grant
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION devices_grants_changed();
CREATE OR REPLACE TRIGGER devices_granted_by_delete AFTER DELETE ON devices_grant
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION devices_grants_changed();
CREATE OR REPLACE TRIGGER devices_granted_to_new AFTER INSERT ON devices_device
    FOR EACH ROW WHEN (NEW.user_id IS NOT NULL) EXECUTE FUNCTION devices_holder_changed();
CREATE OR REPLACE TRIGGER devices_granted_to_other AFTER UPDATE OF user_id ON devices_device
    FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id) EXECUTE FUNCTION devices_holder_changed();

-- The devices that there were before the log.
SELECT devices_note_granted(array_agg(d.id)) FROM devices_device d
WHERE NOT EXISTS (SELECT FROM devices_granted) HAVING count(*) > 0;
