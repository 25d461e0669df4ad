-- Count requests or changes of a device, and return how many there are with these in this hour and on this day of UTC.
-- Where that reaches a limit (0: there is none) it is noted, for people to see.
CREATE OR REPLACE FUNCTION devices_count(p_device uuid, p_kind text, p_count int, p_hour_max int, p_day_max int)
RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_hour int;
    v_day int;
BEGIN
    INSERT INTO devices_usage AS u (device_id, kind, at, hour, day) VALUES (p_device, p_kind, now(), p_count, p_count)
    ON CONFLICT (device_id, kind) DO UPDATE SET
        hour = excluded.hour + CASE WHEN u.at >= date_trunc('hour', now(), 'UTC') THEN u.hour ELSE 0 END,
        day = excluded.day + CASE WHEN u.at >= date_trunc('day', now(), 'UTC') THEN u.day ELSE 0 END,
        at = excluded.at
    RETURNING u.hour, u.day INTO v_hour, v_day;
    IF v_hour >= nullif(p_hour_max, 0) OR v_day >= nullif(p_day_max, 0) THEN
        UPDATE devices_usage u SET reached_at = now() WHERE u.device_id = p_device AND u.kind = p_kind;
    END IF;
    RETURN ARRAY[v_hour, v_day];
END $$;
