-- The log: every event of every stream in one order. A position is dense and equals the order of commits, so whoever
-- sees position p can see everything before p. Only append_to_log() writes here.

create table events (
    position       bigint      not null check (position >= 1),
    aggregate_type text        not null,
    aggregate_id   text        not null,
    sequence       bigint      not null check (sequence >= 1),
    event_type     text        not null,
    event_version  text        not null,
    -- json, not jsonb: the text is kept byte for byte, and the chain is a hash of those bytes
    payload        json        not null,
    metadata       json        not null,
    organization_id uuid       not null,
    recorded_at    timestamptz not null,
    hash           bytea       not null check (length(hash) = 32),
    primary key (aggregate_type, aggregate_id, sequence),
    unique (position)
);

-- Stored as it is, so that pg_column_size() tells a row's size without reading it.
alter table events alter column payload set storage external;
alter table events alter column metadata set storage external;

create index events_by_organization on events (organization_id, position);

-- An event that was written stays as it is.
create function refuse_change_to_events() returns trigger language plpgsql as $$
begin
    raise exception 'events are never changed: % on % is refused', tg_op, tg_table_name
        using errcode = 'restrict_violation';
end
$$;

create trigger events_are_never_changed
    before update or delete on events
    for each row execute function refuse_change_to_events();

create trigger events_are_never_truncated
    before truncate on events
    for each statement execute function refuse_change_to_events();

-- What was already done, by whoever's key: CloudEvents by their source and id, and our own commands by their id, with an
-- empty source, which no CloudEvent has.
create table inbox (
    source         text   not null,
    key            text   not null,
    first_position bigint,
    last_position  bigint,
    primary key (source, key)
);

-- Names in use: unique per organization without regard to case, freed by removal.
create table access_token_names (
    organization_id uuid not null,
    name_key        text not null,
    token_id        uuid not null,
    primary key (organization_id, name_key)
);

-- Where the intake goes on reading; moved by compare-and-set in the append that holds the events.
create table kafka_offsets (
    cluster_id  text   not null,
    topic       text   not null,
    partition   int    not null,
    next_offset bigint not null check (next_offset >= 0),
    primary key (cluster_id, topic, partition)
);

-- Messages that could not be used, kept as they came until an operator releases them.
create table parked_messages (
    id              uuid        primary key,
    organization_id uuid,
    member_id       uuid,
    event_type      text,
    reason          text        not null,
    received_at     timestamptz not null default clock_timestamp(),
    -- from where: cluster, topic, partition and offset; null where it came over HTTP
    cluster_id      text,
    topic           text,
    partition       int,
    message_offset  bigint,
    message_key     bytea,
    headers         json        not null,
    payload         bytea
);

create index parked_messages_by_member on parked_messages (organization_id, member_id);

-- Names and e-mail addresses: erasable, and so never in an event.
create table profiles (
    organization_id uuid not null,
    member_id       uuid not null,
    name            text not null,
    email           text not null,
    primary key (organization_id, member_id)
);

-- A field of the hash: its length as four bytes, then its bytes.
create function hashed(field bytea) returns bytea language sql immutable parallel safe as $$
    select int4send(length(field)) || field
$$;

-- The chain: SHA-256 over position, previous hash, stream, sequence, type, version, payload, metadata and time. The
-- time is in whole microseconds since 1970, as eight bytes.
create function event_hash(
    at_position bigint, previous_hash bytea, aggregate_type text, aggregate_id text, sequence bigint,
    event_type text, event_version text, payload text, metadata text, recorded_at timestamptz
) returns bytea language sql immutable parallel safe as $$
    select sha256(
        hashed(int8send(at_position))
        || hashed(previous_hash)
        || hashed(convert_to(aggregate_type, 'UTF8'))
        || hashed(convert_to(aggregate_id, 'UTF8'))
        || hashed(int8send(sequence))
        || hashed(convert_to(event_type, 'UTF8'))
        || hashed(convert_to(event_version, 'UTF8'))
        || hashed(convert_to(payload, 'UTF8'))
        || hashed(convert_to(metadata, 'UTF8'))
        || hashed(int8send((extract(epoch from recorded_at) * 1000000)::bigint))
    )
$$;

-- Appends a batch of requests, each all or nothing and with an outcome of its own; request n is the nth command id.
-- Within a batch no two requests may share a stream, a name, an inbox key or a partition: the appender sees to that.
--   appended    its events stand at first_position to last_position (null where it had none)
--   duplicate   this very command was appended before, at those positions
--   repeated    one of its inbox keys was used by another command
--   fenced      the offset it moves is not where it believes
--   conflict    a stream it read has moved on
--   name_taken  a name it reserves belongs to another token
create function append_to_log(
    command_ids      uuid[],
    stream_requests  int[], stream_types text[], stream_ids text[], stream_sequences bigint[],
    event_requests   int[], event_aggregate_types text[], event_aggregate_ids text[], event_sequences bigint[],
    event_types      text[], event_versions text[], event_organizations uuid[],
    event_payloads   text[], event_metadata text[],
    inbox_requests   int[], inbox_sources text[], inbox_keys text[],
    names            jsonb, -- [{request, reserve: bool, organization_id, name_key, token_id}]
    offsets          jsonb, -- [{request, cluster_id, topic, partition, expected or null, next_offset}]
    parked           jsonb, -- [{request, and the columns of parked_messages; bytes in hexadecimal}]
    profile_rows     jsonb  -- [{request, and the columns of profiles}]
) returns table (request int, outcome text, first_position bigint, last_position bigint)
language plpgsql volatile as $$
declare
    outcomes       text[];
    firsts         bigint[] := array_fill(null::bigint, array[cardinality(command_ids)]);
    lasts          bigint[] := array_fill(null::bigint, array[cardinality(command_ids)]);
    head_position  bigint;
    head_hash      bytea;
    head_time      timestamptz;
    event          record;
begin
    -- A statement of its own: the statements after it see everything that was committed before the lock was had.
    -- Taken in one statement with the read of the head, a position was given out twice.
    perform pg_advisory_xact_lock(7305808869231650131);

    with duplicates as (
        select ids.request from unnest(command_ids) with ordinality as ids (id, request)
        join inbox i on i.source = '' and i.key = ids.id::text
    ), repeated as (
        select keys.request from unnest(inbox_requests, inbox_sources, inbox_keys) as keys (request, source, key)
        join inbox i on i.source = keys.source and i.key = keys.key
    ), fenced as (
        select moves.request
        from jsonb_to_recordset(offsets) as moves (request int, cluster_id text, topic text, partition int, expected bigint)
        left join kafka_offsets o using (cluster_id, topic, partition)
        where o.next_offset is distinct from moves.expected
    ), moved_on as (
        select streams.request
        from unnest(stream_requests, stream_types, stream_ids, stream_sequences) as streams (request, type, id, sequence)
        where streams.sequence <> coalesce(
            (select e.sequence from events e where e.aggregate_type = streams.type and e.aggregate_id = streams.id
             order by e.sequence desc limit 1), 0)
    ), taken as (
        select wanted.request
        from jsonb_to_recordset(names) as wanted (request int, reserve bool, organization_id uuid, name_key text, token_id uuid)
        join access_token_names n using (organization_id, name_key)
        where wanted.reserve and n.token_id <> wanted.token_id
    )
    select array_agg(
        case
            when r in (select d.request from duplicates d) then 'duplicate'
            when r in (select d.request from repeated d) then 'repeated'
            when r in (select d.request from fenced d) then 'fenced'
            when r in (select d.request from moved_on d) then 'conflict'
            when r in (select d.request from taken d) then 'name_taken'
            else 'appended'
        end order by r)
    into outcomes
    from generate_subscripts(command_ids, 1) as r;

    select e.position, e.hash, e.recorded_at into head_position, head_hash, head_time
    from events e order by e.position desc limit 1;
    head_position := coalesce(head_position, 0);
    head_hash := coalesce(head_hash, decode(repeat('00', 32), 'hex'));
    -- The clock may be set back; the times of the log never are.
    head_time := greatest(head_time, clock_timestamp());

    for event in
        select * from unnest(event_requests, event_aggregate_types, event_aggregate_ids, event_sequences, event_types,
                             event_versions, event_organizations, event_payloads, event_metadata) with ordinality
            as e (request, aggregate_type, aggregate_id, sequence, event_type,
                  event_version, organization_id, payload, metadata, nth)
        where outcomes[e.request] = 'appended'
        order by e.nth
    loop
        head_position := head_position + 1;
        head_hash := event_hash(head_position, head_hash, event.aggregate_type, event.aggregate_id, event.sequence,
                                event.event_type, event.event_version, event.payload, event.metadata, head_time);
        insert into events values (head_position, event.aggregate_type, event.aggregate_id, event.sequence,
            event.event_type, event.event_version, event.payload::json, event.metadata::json, event.organization_id,
            head_time, head_hash);
        firsts[event.request] := coalesce(firsts[event.request], head_position);
        lasts[event.request] := head_position;
    end loop;

    insert into inbox
    select '', ids.id::text, firsts[ids.request], lasts[ids.request]
    from unnest(command_ids) with ordinality as ids (id, request)
    where outcomes[ids.request] = 'appended'
    union all
    select keys.source, keys.key, firsts[keys.request], lasts[keys.request]
    from unnest(inbox_requests, inbox_sources, inbox_keys) as keys (request, source, key)
    where outcomes[keys.request] = 'appended';

    if jsonb_array_length(names) > 0 then
        delete from access_token_names n
        using jsonb_to_recordset(names) as freed (request int, reserve bool, organization_id uuid, name_key text, token_id uuid)
        where outcomes[freed.request] = 'appended' and not freed.reserve
          and n.organization_id = freed.organization_id and n.name_key = freed.name_key and n.token_id = freed.token_id;

        insert into access_token_names
        select wanted.organization_id, wanted.name_key, wanted.token_id
        from jsonb_to_recordset(names) as wanted (request int, reserve bool, organization_id uuid, name_key text, token_id uuid)
        where outcomes[wanted.request] = 'appended' and wanted.reserve
        on conflict (organization_id, name_key) do nothing;
    end if;

    if jsonb_array_length(offsets) > 0 then
        insert into kafka_offsets
        select moves.cluster_id, moves.topic, moves.partition, moves.next_offset
        from jsonb_to_recordset(offsets) as moves (request int, cluster_id text, topic text, partition int, next_offset bigint)
        where outcomes[moves.request] = 'appended'
        on conflict (cluster_id, topic, partition) do update set next_offset = excluded.next_offset;
    end if;

    if jsonb_array_length(parked) > 0 then
        insert into parked_messages (id, organization_id, member_id, event_type, reason, cluster_id, topic, partition,
                                     message_offset, message_key, headers, payload)
        select p.id, p.organization_id, p.member_id, p.event_type, p.reason, p.cluster_id, p.topic, p.partition,
               p.message_offset, decode(p.message_key, 'hex'), p.headers, decode(p.payload, 'hex')
        from jsonb_to_recordset(parked) as p (request int, id uuid, organization_id uuid, member_id uuid,
            event_type text, reason text, cluster_id text, topic text, partition int, message_offset bigint,
            message_key text, headers json, payload text)
        where outcomes[p.request] = 'appended';
    end if;

    if jsonb_array_length(profile_rows) > 0 then
        insert into profiles
        select p.organization_id, p.member_id, p.name, p.email
        from jsonb_to_recordset(profile_rows) as p (request int, organization_id uuid, member_id uuid, name text, email text)
        where outcomes[p.request] = 'appended'
        on conflict (organization_id, member_id) do update set name = excluded.name, email = excluded.email;
    end if;

    return query
    select r, outcomes[r],
           case outcomes[r] when 'duplicate' then i.first_position else firsts[r] end,
           case outcomes[r] when 'duplicate' then i.last_position else lasts[r] end
    from generate_subscripts(command_ids, 1) as r
    left join inbox i on outcomes[r] = 'duplicate' and i.source = '' and i.key = command_ids[r]::text
    order by r;
end
$$;
