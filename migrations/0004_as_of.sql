-- Reading the log as of a time, and searching it. No index is added for either: each append would pay for it.

-- The last position recorded no later than this; 0 where there is none. Positions are dense and their times never go
-- back, so halving finds it, with some twenty looks at a log of a million events.
create function last_position_at(moment timestamptz) returns bigint language plpgsql stable strict as $$
declare
    low    bigint := 0; -- recorded by then, or before the first event
    high   bigint;      -- recorded later, or after the last event
    middle bigint;
begin
    high := coalesce((select e.position from events e order by e.position desc limit 1), 0) + 1;
    while high - low > 1 loop
        middle := (low + high) / 2;
        if (select e.recorded_at <= moment from events e where e.position = middle) then
            low := middle;
        else
            high := middle;
        end if;
    end loop;
    return low;
end
$$;

-- Returns when the append under way, if any, is over: it may carry a time that has passed already. What is appended after
-- this carries a later one, so an answer as of a time never changes.
create function wait_for_append() returns void language sql volatile as $$
    select pg_advisory_xact_lock_shared(7305808869231650131) -- the lock of append_to_log()
$$;

-- Text to compare without regard to case: in every language where PostgreSQL was built with ICU, else by the database's
-- locale, which may know no letters beyond a to z. Most text has no others, and that is quicker.
do $$
declare
    known text := case when exists (select from pg_collation where collname = 'und-x-icu') then 'collate "und-x-icu"' else '' end;
begin
    execute format('create function folded(content text) returns text language plpgsql immutable parallel safe as $folded$
begin
    if octet_length(content) = length(content) then
        return lower(content collate "C");
    end if;
    return lower(content %s);
end
$folded$', known);
end
$$;

-- A folded payload without its digests, whatever they are called. A field's name is what stands between two quotes,
-- without a backslash, before a colon: inside of a value each quote comes with a backslash, so no value can pass for a field.
create function without_digests(payload text) returns text language sql immutable parallel safe as $$
    select regexp_replace(payload, '"[^"\\]*digest[^"\\]*"\s*:\s*("(\\.|[^"\\])*"|\[[^]]*\])', '', 'g')
$$;

-- Whether an event's type or payload holds any of these (folded) texts, digests aside. The payload is looked at as it is
-- first: few hold what is wanted, and to take the digests out costs more.
create function event_says(event_type text, payload json, wanted text[]) returns boolean
language plpgsql immutable parallel safe as $$
declare
    content text := folded(payload::text);
    one     text;
begin
    foreach one in array wanted loop
        if strpos(event_type, one) > 0 then
            return true;
        end if;
        if strpos(content, one) > 0 and (strpos(content, 'digest') = 0 or strpos(without_digests(content), one) > 0) then
            return true;
        end if;
    end loop;
    return false;
end
$$;
