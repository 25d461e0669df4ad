-- name: all
-- Functions that `migrate` keeps up to date. Those in PL/pgSQL keep their plans in the database session, so that
-- no statement has to be prepared by the client (PgBouncer in transaction mode works).

-- Who makes the changes of this transaction; a writer that did not say is named by its role.
CREATE OR REPLACE FUNCTION sync_author() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('sync.author', true), ''), 'sql:' || session_user)
$$;

-- Which mutation changes which row in this transaction: two arrays of ids, side by side.
CREATE OR REPLACE FUNCTION sync_mutations(OUT row_ids uuid[], OUT ids uuid[]) LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('sync.rows', true), '')::uuid[],
           nullif(current_setting('sync.mutations', true), '')::uuid[]
$$;

-- What a dump cannot carry with it: the cluster, its timeline, the database and the table itself. A database that was
-- restored or replaced answers differently.
CREATE OR REPLACE FUNCTION sync_database_identity() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'sync_feed'::regclass::oid)
$$;

-- Whether this database is the one that a token speaks of, and what a token of now says of it: its epoch and its witness
-- (the start of the database server that it was given under, and how much of the log had been written by then).
--
-- What was restored from a copy of the files has the identity of what it was copied from. But it was started again, and
-- each start remembers where the log ended then and which transaction was next. A token that was given under an earlier
-- start says more than that only if it comes from what the copy has lost; so does one of a start that is not known here.
CREATE OR REPLACE FUNCTION sync_standing(
    p_epoch uuid, p_xmax xid8, p_witness text, OUT problem text, OUT epoch uuid, OUT forgotten_before xid8, OUT witness text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_identity text;
    v_start sync_start;
    v_lsn pg_lsn;
BEGIN
    SELECT e.id, e.database_identity, e.forgotten_before INTO epoch, v_identity, forgotten_before FROM sync_epoch e;
    IF v_identity IS DISTINCT FROM sync_database_identity() THEN problem := 'new_epoch'; RETURN; END IF;
    SELECT * INTO v_start FROM sync_start s ORDER BY s.number DESC LIMIT 1;
    IF v_start.started_at IS DISTINCT FROM pg_postmaster_start_time() THEN problem := 'new_start'; RETURN; END IF;
    v_lsn := pg_current_wal_flush_lsn();
    witness := v_start.beacon || ' ' || v_lsn;
    IF p_epoch <> epoch THEN
        problem := 'token_expired';
    ELSIF p_xmax > pg_snapshot_xmax(pg_current_snapshot())
       OR p_witness IS NOT NULL AND NOT sync_is_ours(p_xmax, p_witness, v_start.beacon, v_lsn) THEN
        problem := 'lost_future';
    END IF;
END $$;

-- Whether what a witness speaks of has happened in this database.
CREATE OR REPLACE FUNCTION sync_is_ours(p_xmax xid8, p_witness text, p_beacon text, p_lsn pg_lsn) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN w.beacon = p_beacon THEN w.lsn <= p_lsn
                ELSE coalesce((SELECT w.lsn <= n.lsn AND coalesce(p_xmax <= n.xid, true)
                               FROM sync_start s JOIN sync_start n ON n.number > s.number WHERE s.beacon = w.beacon
                               ORDER BY n.number LIMIT 1), false) END
    FROM (SELECT split_part(p_witness, ' ', 1) AS beacon, split_part(p_witness, ' ', 2)::pg_lsn AS lsn) w
$$;

-- One page of a pull, with authentication, in one call. STABLE, so that the whole page sees one snapshot, "now".
--
-- A run of pages brings a device from what it has (everything visible in p_base; NULL: nothing) to everything visible in
-- p_target. The log of grants says which scopes were granted at each. The run's lanes are those scopes one after the other:
-- lost ones (granted at some time since the base; their rows become deletes), kept ones (what is not visible in the
-- base), new ones (every row, and deletes since). A lane is read in ranges of transactions: each one that was still open
-- in p_base, then all that began later; so its cost is that of what changed, however long some transaction stays
-- open. p_lane, p_xid, p_seq say where the page before ended. When a run is at its end and more was committed meanwhile,
-- the next run follows, in the same page only if that is empty so far.
--
-- What changed comes in pieces of JSON, one for each range and entity: joined here, megabytes would be copied ten times.
DO $$ BEGIN -- a function whose parameters or result change cannot be replaced
    IF NOT EXISTS (SELECT FROM pg_proc WHERE oid = to_regproc('sync_pull') AND 'p_witness' = ANY (proargnames)) THEN
        DROP FUNCTION IF EXISTS sync_pull;
    END IF;
END $$;
CREATE OR REPLACE FUNCTION sync_pull(
    p_token_hash bytea, p_epoch uuid, p_device uuid, p_base pg_snapshot, p_floor pg_snapshot, p_target pg_snapshot,
    p_lane int, p_xid xid8, p_seq bigint, p_rows int, p_bytes int, p_scopes int, p_many_scoped text[],
    p_witness text,
    OUT problem text, OUT device uuid, OUT wipe boolean, OUT last_seen_at timestamptz, OUT pending int,
    OUT entities text[], OUT upserts text[], OUT deletes text[],
    OUT row_count int, OUT has_more boolean, OUT epoch uuid, OUT base pg_snapshot, OUT floor pg_snapshot,
    OUT target pg_snapshot, OUT lane int, OUT xid xid8, OUT seq bigint, OUT witness text
) LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    v_now pg_snapshot := pg_current_snapshot();
    v_forgotten xid8;
    v_standing text;
    v_revoked boolean;
    v_since pg_snapshot;
    v_granted text[];
    v_regranted boolean;
    v_few CONSTANT int := 50; -- entries
    v_changed text[]; -- since the base; NULL: too many to say
    v_any boolean;
    v_xmin xid8;
    v_open xid8[];
    v_lost text[];
    v_kept text[];
    v_new text[];
    v_lanes text[];
    v_granting text[];
    v_active int[];
    v_kind text;
    v_ranges xid8[];
    v_low xid8;
    v_high xid8;
    v_found record;
    v_rows int;
    v_place bigint;
    v_size bigint;
    v_bytes bigint := 0;
    v_next_xid xid8;
    v_next_seq bigint;
BEGIN
    SELECT i.id, i.revoked, i.wipe, i.last_seen_at, i.pending INTO device, v_revoked, wipe, last_seen_at, pending
    FROM devices_identity(p_token_hash) i;
    SELECT s.problem, s.epoch, s.forgotten_before, s.witness INTO v_standing, epoch, v_forgotten, witness
    FROM sync_standing(p_epoch, greatest(pg_snapshot_xmax(p_base), pg_snapshot_xmax(p_target)), p_witness) s;
    problem := CASE
        WHEN device IS NULL THEN 'unauthorized'
        WHEN v_revoked THEN 'device_revoked'
        WHEN v_standing IS NOT NULL THEN v_standing
        WHEN p_device <> device
          OR pg_snapshot_xmin(coalesce(p_base, p_floor)) < v_forgotten OR pg_snapshot_xmin(p_target) < v_forgotten
          THEN 'token_expired'
    END;
    IF problem IS NOT NULL THEN RETURN; END IF;

    -- Most lanes of most pulls have nothing new, and most pulls nothing at all: then this is all that is paid. Where little
    -- was written since, anywhere, that is looked through; else each scope is asked.
    v_open := ARRAY(SELECT pg_snapshot_xip(p_base) ORDER BY 1);
    v_xmin := pg_snapshot_xmin(p_base);
    SELECT coalesce(array_agg(g.scope) FILTER (WHERE g.until IS NULL), '{}'),
           coalesce(bool_or(g.since >= v_xmin AND NOT pg_visible_in_snapshot(g.since, p_base)
                            OR g.until >= v_xmin AND NOT pg_visible_in_snapshot(g.until, p_base)), p_base IS NULL)
    INTO v_granted, v_regranted
    FROM devices_granted g WHERE g.device_id = device;
    IF cardinality(v_granted) > p_scopes THEN problem := 'too_many_scopes'; RETURN; END IF;
    SELECT CASE WHEN count(*) < v_few THEN coalesce(array_agg(DISTINCT r.scope), '{}') END INTO v_changed
    FROM (
        (SELECT f.scope FROM sync_feed f WHERE f.xid >= pg_snapshot_xmax(p_base) AND f.rev > 0 ORDER BY f.xid LIMIT v_few)
        UNION ALL (SELECT f.scope FROM sync_feed f WHERE f.xid = ANY (v_open) AND f.rev > 0 ORDER BY f.xid LIMIT v_few)
    ) r;
    v_any := v_granted && v_changed;
    IF v_changed IS NULL THEN
        v_any := EXISTS (SELECT FROM sync_feed f WHERE f.scope = ANY (v_granted) AND f.xid >= pg_snapshot_xmax(p_base))
                 OR v_open <> '{}'
                    AND EXISTS (SELECT FROM sync_feed f WHERE f.scope = ANY (v_granted) AND f.xid = ANY (v_open));
    END IF;
    IF NOT (v_regranted OR v_any) AND p_target IS NULL THEN
        entities := '{}'; upserts := '{}'; deletes := '{}'; row_count := 0; has_more := false; base := v_now;
        RETURN;
    END IF;

    IF p_lane = 1 AND p_xid = '0' AND p_seq = 0 THEN
        p_target := NULL; -- nothing of the run was read yet: it may as well lead to now, and then it can be the last
    END IF;
    base := p_base;
    target := coalesce(p_target, v_now);
    floor := CASE WHEN base IS NULL THEN coalesce(p_floor, target) END;
    lane := p_lane; xid := p_xid; seq := p_seq;
    entities := '{}'; upserts := '{}'; deletes := '{}';
    row_count := 0;
    has_more := false;
    IF p_target IS NOT NULL AND EXISTS (
        SELECT FROM devices_granted g WHERE g.device_id = device AND g.until IS NOT NULL
        AND pg_visible_in_snapshot(g.since, p_target) AND NOT pg_visible_in_snapshot(g.until, p_target)
    ) THEN
        -- A scope was revoked while the run went on. Nobody knows how much the device has of it: it is taken away, as if
        -- all of it had been read, by a run that begins anew.
        target := v_now; lane := 1; xid := '0'; seq := 0;
    END IF;
    <<runs>> LOOP
        v_since := coalesce(base, floor);
        SELECT coalesce(array_agg(g.scope ORDER BY g.scope) FILTER (WHERE g.granting AND g.had), '{}'),
               coalesce(array_agg(g.scope ORDER BY g.scope) FILTER (WHERE g.granting AND NOT g.had), '{}'),
               coalesce(array_agg(DISTINCT g.scope) FILTER (WHERE g.taken), '{}')
        INTO v_kept, v_new, v_lost
        FROM (
            SELECT o.scope, coalesce(pg_visible_in_snapshot(o.since, base), false) AS had,
                   pg_visible_in_snapshot(o.since, target)
                   AND NOT coalesce(pg_visible_in_snapshot(o.until, target), false) AS granting,
                   NOT pg_visible_in_snapshot(o.until, v_since) AND pg_visible_in_snapshot(o.until, target) AS taken
            FROM devices_granted o WHERE o.device_id = device
        ) g;
        v_granting := v_kept || v_new;
        v_lost := ARRAY(SELECT unnest(v_lost) EXCEPT SELECT unnest(v_granting) ORDER BY 1);
        v_lanes := v_lost || v_granting;
        v_open := ARRAY(SELECT pg_snapshot_xip(base) ORDER BY 1);
        v_active := ARRAY(
            SELECT cardinality(v_lost) + k.at FROM unnest(v_kept) WITH ORDINALITY k(scope, at)
            WHERE (v_changed IS NULL OR k.scope = ANY (v_changed))
              AND (EXISTS (SELECT FROM sync_feed f WHERE f.scope = k.scope AND f.xid >= pg_snapshot_xmax(base))
                   OR EXISTS (SELECT FROM sync_feed f WHERE f.scope = k.scope AND f.xid = ANY (v_open)))
        );
        WHILE lane <= cardinality(v_lanes) LOOP
            v_kind := CASE WHEN lane <= cardinality(v_lost) THEN 'lost'
                           WHEN lane <= cardinality(v_lost) + cardinality(v_kept) THEN 'kept' ELSE 'new' END;
            v_ranges := CASE WHEN v_kind <> 'kept' THEN ARRAY['0'::xid8]
                             WHEN lane = ANY (v_active) THEN v_open || pg_snapshot_xmax(base) ELSE '{}' END;
            WHILE cardinality(v_ranges) > 0 LOOP
                v_low := v_ranges[1];
                v_high := CASE WHEN cardinality(v_ranges) > 1 THEN v_low ELSE '18446744073709551615'::xid8 END;
                v_ranges := v_ranges[2:];
                CONTINUE WHEN v_high < xid;
                IF v_low > xid THEN xid := v_low; seq := 0; END IF;
                CONTINUE WHEN NOT EXISTS (SELECT FROM sync_feed f WHERE f.scope = v_lanes[lane] AND f.xid <= v_high
                                          AND (f.xid, f.seq) > (sync_pull.xid, sync_pull.seq));
                v_place := 0; v_size := 0; v_rows := 0;
                FOR v_found IN
                    WITH entry AS (
                        SELECT f.entity, f.row_id, f.xid, f.seq, CASE WHEN v_kind <> 'lost' THEN f.data END AS data
                        FROM sync_feed f
                        WHERE f.scope = v_lanes[lane] AND f.xid <= v_high
                          AND (f.xid, f.seq) > (sync_pull.xid, sync_pull.seq)
                          -- What changed since the target is told by the next run, but nobody reads a lost scope again.
                          AND (v_kind = 'lost' OR pg_visible_in_snapshot(f.xid, target))
                          -- Of a new scope, a device may have pushed rows before its first pull of it.
                          AND (v_kind = 'kept' OR f.data IS NOT NULL OR NOT pg_visible_in_snapshot(f.xid, v_since))
                        ORDER BY f.xid, f.seq LIMIT p_rows - row_count
                    ), sized AS (
                        SELECT e.*, row_number() OVER w AS place, octet_length(coalesce(e.data, '')) + 40 AS own,
                               sum(octet_length(coalesce(e.data, '')) + 40) OVER w AS size
                        FROM entry e WINDOW w AS (ORDER BY e.xid, e.seq ROWS UNBOUNDED PRECEDING)
                    ), told AS (
                        SELECT s.*, CASE
                            -- A delete is not told while another granted scope holds the row, nor twice.
                            WHEN s.data IS NULL THEN NOT EXISTS (
                                SELECT FROM sync_feed o WHERE o.row_id = s.row_id AND o.entity = s.entity
                                AND (o.scope = ANY (v_granting) AND o.data IS NOT NULL
                                     OR o.scope = ANY (v_lanes[:lane - 1]) AND o.scope = ANY (v_granting)
                                        AND o.data IS NULL AND NOT pg_visible_in_snapshot(o.xid, v_since)))
                            -- A row in several scopes is told by the first of them.
                            WHEN lane > 1 AND s.entity = ANY (p_many_scoped) THEN NOT EXISTS (
                                SELECT FROM sync_feed o WHERE o.row_id = s.row_id AND o.entity = s.entity
                                AND o.scope = ANY (v_lanes[:lane - 1]) AND o.scope = ANY (v_granting) AND o.data IS NOT NULL
                                AND pg_visible_in_snapshot(o.xid, target))
                            ELSE true END AS tell
                        FROM sized s WHERE s.size - s.own < p_bytes - v_bytes
                    )
                    SELECT t.entity, string_agg(t.data, ',') FILTER (WHERE t.tell) AS upserts,
                           string_agg('"' || t.row_id::text || '"', ',') FILTER (WHERE t.tell AND t.data IS NULL) AS deletes,
                           count(*) AS rows, max(t.size) AS size, max(t.xid) AS xid, max(ARRAY[t.place, t.seq]) AS last
                    FROM told t GROUP BY t.entity
                LOOP
                    v_rows := v_rows + v_found.rows;
                    v_size := greatest(v_size, v_found.size);
                    IF v_found.last[1] > v_place THEN
                        v_place := v_found.last[1]; v_next_xid := v_found.xid; v_next_seq := v_found.last[2];
                    END IF;
                    entities := entities || v_found.entity;
                    upserts := upserts || v_found.upserts;
                    deletes := deletes || v_found.deletes;
                END LOOP;
                IF v_rows > 0 THEN xid := v_next_xid; seq := v_next_seq; END IF;
                row_count := row_count + v_rows;
                v_bytes := v_bytes + v_size;
                has_more := row_count >= p_rows OR v_bytes >= p_bytes;
                EXIT runs WHEN has_more;
            END LOOP;
            lane := lane + 1; xid := '0'; seq := 0;
        END LOOP;
        base := target; floor := NULL; target := v_now; lane := 1; xid := '0'; seq := 0;
        v_changed := NULL; -- that was since another base
        EXIT runs WHEN base::text = v_now::text;
        -- What this run took away may come back with the next, and a page tells a row once.
        has_more := row_count > 0;
        EXIT runs WHEN has_more;
    END LOOP;
END $$;
