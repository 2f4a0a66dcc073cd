-- An append that writes less. Which command an event is of stands beside the event, where a row of the inbox said so: only a
-- command without events still has one. And an organization's tokens are counted by the node that adds one, as of a position:
-- each event since then may be one more, so that nothing is counted up here.

-- Null in events of before, whose commands stand in the inbox. It is not in the chain: it is how the service knows its own.
alter table events add column command_id uuid;

drop table organization_tokens;

drop function append_to_log;

-- Appends a batch of requests, each all or nothing and with an outcome of its own; request n is the nth command id.
-- Within a batch no two requests may share a stream, a name, a key or a partition: the appender sees to that.
--   appended    its events stand at first_position to last_position (null where it had none)
--   duplicate   this very command was appended before, at those positions
--   repeated    one of its inbox keys was used by another command, and nothing else speaks against it
--   fenced      the offset it moves is not where it believes
--   key_used    its idempotency key was used by another command
--   conflict    a stream it read has moved on, or what it says of parked messages is not so
--   name_taken  a name it reserves belongs to another token
--   full        the organization had as many tokens as it may have when they were counted; where it may have come to that since,
--               it is a conflict: they are to be counted again. Where tokens were given up since, there may be room.
create function append_to_log(
    command_ids      uuid[],
    stream_requests  int[], stream_types text[], stream_ids text[], stream_sequences bigint[],
    event_requests   int[], event_aggregate_types text[], event_aggregate_ids text[], event_sequences bigint[],
    event_types      text[], event_versions text[], event_organizations uuid[],
    event_payloads   text[], event_metadata text[],
    inbox_requests   int[], inbox_sources text[], inbox_keys text[],
    names            jsonb, -- as name_requests and the rest, from a node of before: [{request, reserve: bool,
                            -- organization_id, name_key, token_id, at_most: tokens, or null}]
    offsets          jsonb, -- [{request, cluster_id, topic, partition, expected or null, next_offset}]
    parked           jsonb, -- [{request, change, and more}], see change_parked()
    profile_rows     jsonb, -- [{request, and the columns of profiles}]
    idempotency      jsonb, -- [{request, organization_id, member_id, route, key, body_digest in hexadecimal, token_id}]
    -- what the chain covers of each event before its time; null, as from a node of before: it is put together here
    event_contents   bytea[] default null,
    -- whether a stream is written to, or only read; null, as from a node of before: not known
    stream_writes    boolean[] default null,
    -- a name that a token takes, or gives up; where taking it adds a token to its organization, how many that may have
    name_requests    int[]    default null, name_reserves boolean[] default null, name_organizations uuid[] default null,
    name_keys        text[]   default null, name_tokens   uuid[]    default null, name_at_most       bigint[] default null,
    -- and how many it had when the log went up to which position; null, as from a node of before: they are counted here
    name_counts      bigint[] default null, name_counted_at bigint[] default null
) returns table (request int, outcome text, first_position bigint, last_position bigint, recorded_at timestamptz,
                 -- of the last event before this call, null where there is none; and of the last one now, zeros where there is none
                 hash_before bytea, hash bytea)
language plpgsql volatile
-- unnest() of several arrays in a FROM materializes each of them first; side by side in a select list it does not.
-- A plan for these very arrays costs more to make than to carry out. One that is made while the log is short must be good
-- when it is long.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    outcomes       text[];
    firsts         bigint[];
    lasts          bigint[];
    times          timestamptz[];
    head_position  bigint;
    head_hash      bytea;
    head_time      timestamptz;
    log_position   bigint;
    log_time       timestamptz;
    last_hash      bytea;
    -- a variable, not the parameter: to take one element of that, those before it are walked through
    contents       bytea[] := event_contents;
    stamp          bytea;
    -- one for each event: an array that begins with its first assigned element would not stand beside the others
    positions      bigint[];
    hashes         bytea[];
    -- nothing is believed
    is_careful     boolean := stream_writes is null;
    frees_names    boolean;
    may_be_full    boolean := false;
    found          record;
    r              int;
begin
    -- A statement of its own: the statements after it see everything that was committed before the lock was had.
    -- Taken in one statement with the read of the head, a position was given out twice.
    perform pg_advisory_xact_lock(7305808869231650131);

    if name_requests is null then
        select array_agg(n.request), array_agg(n.reserve), array_agg(n.organization_id), array_agg(n.name_key),
               array_agg(n.token_id), array_agg(n.at_most)
        into name_requests, name_reserves, name_organizations, name_keys, name_tokens, name_at_most
        from jsonb_to_recordset(names)
            as n (request int, reserve bool, organization_id uuid, name_key text, token_id uuid, at_most bigint);
    end if;
    frees_names := false = any (name_reserves);

    select e.position, e.hash, e.recorded_at into log_position, head_hash, log_time
    from events e order by e.position desc limit 1;
    log_position := coalesce(log_position, 0);

    if cardinality(name_requests) > 0 then
        if name_counts is null then
            with counted as materialized (
                select o.organization_id, (
                    select count(*) from access_token_names n where n.organization_id = o.organization_id) as tokens
                from (select distinct wanted.organization_id
                      from unnest(name_organizations, name_at_most) as wanted (organization_id, at_most)
                      where wanted.at_most is not null) o
            )
            select array_agg(c.tokens order by wanted.nth), array_agg(log_position)
            into name_counts, name_counted_at
            from unnest(name_organizations) with ordinality as wanted (organization_id, nth)
            left join counted c on c.organization_id = wanted.organization_id;
        end if;
        -- Coarse, as if all events since were tokens of each of them; where that objects, each is looked at. An end of the log
        -- may have been lost.
        select coalesce(min(c.at_most - c.tokens + c.counted_at) < log_position + cardinality(name_requests)
                        or max(c.counted_at) > log_position, false)
        into may_be_full
        from (select unnest(name_at_most) as at_most, unnest(name_counts) as tokens, unnest(name_counted_at) as counted_at) c;
        is_careful := is_careful or may_be_full;
    end if;

    loop
        begin
            outcomes := array_fill('appended'::text, array[cardinality(command_ids)]);
            firsts := array_fill(null::bigint, array[cardinality(command_ids)]);
            lasts := firsts;
            positions := array_fill(null::bigint, array[cardinality(event_requests)]);
            hashes := array_fill(null::bytea, array[cardinality(event_requests)]);

            -- What speaks against a request; what is found later is the more telling. Each is looked up by its key, in a subquery
            -- for each row: as a join the planner may read the whole table.
            if may_be_full then
                for found in
                    with added as (
                        select wanted.request, wanted.organization_id, wanted.at_most, wanted.tokens, wanted.counted_at,
                               row_number() over (partition by wanted.organization_id order by wanted.request) - 1 as before
                        from unnest(name_requests, name_organizations, name_at_most, name_counts, name_counted_at)
                            as wanted (request, organization_id, at_most, tokens, counted_at)
                        where wanted.at_most is not null
                    ), since as materialized (
                        -- Once for all that were counted together; null where that is too long ago to go through it here.
                        select c.organization_id, c.counted_at,
                               case when log_position - c.counted_at between 0 and 10000 then (
                                   select count(*) from events e where e.organization_id = c.organization_id
                                       and e.position > c.counted_at) end as events
                        from (select distinct a.organization_id, a.counted_at from added a) c
                    )
                    select a.request, case when a.tokens >= a.at_most then 'full' else 'conflict' end as outcome
                    from added a join since s on s.organization_id = a.organization_id and s.counted_at = a.counted_at
                    where coalesce(a.tokens + a.before + s.events >= a.at_most, true)
                loop
                    outcomes[found.request] := found.outcome;
                end loop;
            end if;

            if is_careful and cardinality(name_requests) > 0 then
                for found in
                    select wanted.request
                    from unnest(name_requests, name_reserves, name_organizations, name_keys, name_tokens)
                        as wanted (request, reserve, organization_id, name_key, token_id)
                    where wanted.reserve and wanted.token_id <> (
                        select n.token_id from access_token_names n
                        where n.organization_id = wanted.organization_id and n.name_key = wanted.name_key)
                loop
                    outcomes[found.request] := 'name_taken';
                end loop;
            end if;

            foreach r in array array(
                select streams.request
                from (select unnest(stream_requests) as request, unnest(stream_types) as type, unnest(stream_ids) as id,
                             unnest(stream_sequences) as sequence, unnest(stream_writes) as writes) streams
                where case when streams.writes and not is_careful
                    -- What comes after it can't be written twice. But it must be there: an end of the log may have been lost.
                    then streams.sequence > 0 and not coalesce((
                        select true from events e where e.aggregate_type = streams.type and e.aggregate_id = streams.id
                            and e.sequence = streams.sequence), false)
                    else streams.sequence <> coalesce((
                        select e.sequence from events e where e.aggregate_type = streams.type and e.aggregate_id = streams.id
                        order by e.sequence desc limit 1), 0)
                    end)
            loop
                outcomes[r] := 'conflict';
            end loop;

            if jsonb_array_length(parked) > 0 then
                for found in select p.request from not_parked_so(parked) as p (request) loop
                    outcomes[found.request] := 'conflict';
                end loop;
            end if;

            if jsonb_array_length(idempotency) > 0 then
                for found in
                    select keys.request
                    from jsonb_to_recordset(idempotency) as keys (request int, organization_id uuid, member_id uuid, route text, key text)
                    where idempotency_keys_hold_since() < (
                        select k.recorded_at from idempotency_keys k
                        where k.organization_id = keys.organization_id and k.member_id = keys.member_id
                          and k.route = keys.route and k.key = keys.key)
                loop
                    outcomes[found.request] := 'key_used';
                end loop;
            end if;

            if jsonb_array_length(offsets) > 0 then
                for found in
                    select moves.request
                    from jsonb_to_recordset(offsets)
                        as moves (request int, cluster_id text, topic text, partition int, expected bigint)
                    where moves.expected is distinct from (
                        select o.next_offset from kafka_offsets o
                        where o.cluster_id = moves.cluster_id and o.topic = moves.topic and o.partition = moves.partition)
                loop
                    outcomes[found.request] := 'fenced';
                end loop;
            end if;

            -- A command that stands may look refused by now, because it or others have moved on since. It is found by its first
            -- event, the others stand behind that; one that had none, by its key in the inbox.
            if is_careful or 'appended' <> any (outcomes) then
                for found in
                    select own.request, own.first_position, own.first_position + own.events - 1 as last_position
                    from (
                        select of_request.request, of_request.events, (
                            select e.position from events e
                            where e.aggregate_type = event_aggregate_types[of_request.first]
                              and e.aggregate_id = event_aggregate_ids[of_request.first]
                              and e.sequence = event_sequences[of_request.first]
                              and e.command_id = command_ids[of_request.request]) as first_position
                        from (select e.request, min(e.nth) as first, count(*) as events
                              from unnest(event_requests) with ordinality as e (request, nth) group by e.request) of_request
                    ) own
                    where own.first_position is not null
                    union all
                    select ids.request, before.first_position, before.last_position
                    from unnest(command_ids) with ordinality as ids (id, request)
                    cross join lateral (
                        select i.first_position, i.last_position from inbox i where i.source = '' and i.key = ids.id::text limit 1
                    ) before
                loop
                    outcomes[found.request] := 'duplicate';
                    firsts[found.request] := found.first_position;
                    lasts[found.request] := found.last_position;
                end loop;
            end if;

            if is_careful then
                for found in
                    select keys.request from unnest(inbox_requests, inbox_sources, inbox_keys) as keys (request, source, key)
                    where outcomes[keys.request] = 'appended'
                      and (select true from inbox i where i.source = keys.source and i.key = keys.key)
                loop
                    outcomes[found.request] := 'repeated';
                end loop;
            end if;

            if cardinality(inbox_requests) > 0 then
                insert into inbox (source, key)
                select keys.source, keys.key from unnest(inbox_requests, inbox_sources, inbox_keys) as keys (request, source, key)
                where outcomes[keys.request] = 'appended';
            end if;

            head_position := log_position;
            last_hash := coalesce(head_hash, decode(repeat('00', 32), 'hex'));
            -- The clock may be set back; the times of the log never are.
            head_time := greatest(log_time, clock_timestamp());
            times := array_fill(head_time, array[cardinality(command_ids)]);

            stamp := hashed(int8send((extract(epoch from head_time) * 1000000)::bigint));
            if contents is null then
                select array_agg(contents_before_time(e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, e.event_version,
                                                      e.payload, e.metadata) order by e.nth)
                into contents
                from unnest(event_aggregate_types, event_aggregate_ids, event_sequences, event_types, event_versions,
                            event_payloads, event_metadata) with ordinality
                    as e (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, nth);
            end if;

            for nth in 1 .. cardinality(event_requests) loop
                r := event_requests[nth];
                continue when outcomes[r] <> 'appended';
                head_position := head_position + 1;
                last_hash := event_hash(head_position, last_hash, contents[nth] || stamp);
                positions[nth] := head_position;
                hashes[nth] := last_hash;
                firsts[r] := coalesce(firsts[r], head_position);
                lasts[r] := head_position;
            end loop;

            insert into events
            select e.position, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, e.event_version, e.payload::json,
                   e.metadata::json, e.organization_id, head_time, e.hash, command_ids[e.request]
            from (select unnest(positions) as position, unnest(event_aggregate_types) as aggregate_type,
                         unnest(event_aggregate_ids) as aggregate_id, unnest(event_sequences) as sequence,
                         unnest(event_types) as event_type, unnest(event_versions) as event_version,
                         unnest(event_payloads) as payload, unnest(event_metadata) as metadata,
                         unnest(event_organizations) as organization_id, unnest(hashes) as hash,
                         unnest(event_requests) as request) e
            where e.position is not null;

            if array_position(firsts, null) is not null then
                insert into inbox (source, key)
                select '', ids.id::text
                from unnest(command_ids) with ordinality as ids (id, request)
                where outcomes[ids.request] = 'appended' and firsts[ids.request] is null;
            end if;

            -- Freed first, in a statement of its own: a name may be freed and taken by the same batch.
            if frees_names then
                delete from access_token_names n
                using unnest(name_requests, name_reserves, name_organizations, name_keys, name_tokens)
                    as freed (request, reserve, organization_id, name_key, token_id)
                where outcomes[freed.request] = 'appended' and not freed.reserve
                  and n.organization_id = freed.organization_id and n.name_key = freed.name_key and n.token_id = freed.token_id;
            end if;

            if cardinality(name_requests) > 0 then
                insert into access_token_names
                select wanted.organization_id, wanted.name_key, wanted.token_id
                from (select unnest(name_requests) as request, unnest(name_reserves) as reserve,
                             unnest(name_organizations) as organization_id, unnest(name_keys) as name_key,
                             unnest(name_tokens) as token_id) wanted
                where outcomes[wanted.request] = 'appended' and wanted.reserve
                  -- What the token has already; where it is believed to have none, the index objects.
                  and not (is_careful and coalesce((
                    select true from access_token_names n
                    where n.organization_id = wanted.organization_id and n.name_key = wanted.name_key), false));
            end if;
            exit;
        exception when unique_violation then
            -- Not what was believed: a request that names one key twice, say.
            if is_careful then raise; end if;
            is_careful := true;
        end;
    end loop;

    if jsonb_array_length(offsets) > 0 then
        insert into kafka_offsets
        select moves.cluster_id, moves.topic, moves.partition, moves.next_offset
        from jsonb_to_recordset(offsets) as moves (request int, cluster_id text, topic text, partition int, next_offset bigint)
        where outcomes[moves.request] = 'appended'
        on conflict (cluster_id, topic, partition) do update set next_offset = excluded.next_offset;
    end if;

    if jsonb_array_length(parked) > 0 then
        perform change_parked(outcomes, parked);
    end if;

    if jsonb_array_length(profile_rows) > 0 then
        insert into profiles
        select p.organization_id, p.member_id, p.name, p.email
        from jsonb_to_recordset(profile_rows) as p (request int, organization_id uuid, member_id uuid, name text, email text)
        where outcomes[p.request] = 'appended'
        on conflict (organization_id, member_id) do update set name = excluded.name, email = excluded.email;
    end if;

    if jsonb_array_length(idempotency) > 0 then
        delete from idempotency_keys k
        where k.ctid = any (array(select old.ctid from idempotency_keys old
                                  where old.recorded_at <= idempotency_keys_hold_since() limit 1000));

        insert into idempotency_keys
        select keys.organization_id, keys.member_id, keys.route, keys.key, decode(keys.body_digest, 'hex'), keys.token_id,
               head_time
        from jsonb_to_recordset(idempotency) as keys (request int, organization_id uuid, member_id uuid, route text,
            key text, body_digest text, token_id uuid)
        where outcomes[keys.request] = 'appended'
        on conflict (organization_id, member_id, route, key) do update
        set body_digest = excluded.body_digest, token_id = excluded.token_id, recorded_at = excluded.recorded_at;
    end if;

    if 'duplicate' = any (outcomes) then
        for found in
            select n, e.recorded_at
            from generate_subscripts(command_ids, 1) as n
            cross join lateral (select e.recorded_at from events e where e.position = lasts[n]) e
            where outcomes[n] = 'duplicate'
        loop
            times[found.n] := found.recorded_at;
        end loop;
    end if;

    return query
    select n, outcomes[n], firsts[n], lasts[n], times[n], head_hash, last_hash
    from generate_subscripts(command_ids, 1) as n order by n;
end
$$;
