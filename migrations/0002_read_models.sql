-- The read models: rows and the checkpoint they are true at move in one transaction. Each version of a read model has a
-- schema of its own, so that a new one is filled beside the old; readers use the views here, which are switched over.

create table read_models (
    name     text   not null,
    version  int    not null,
    position bigint not null default 0,
    primary key (name, version)
);

-- How far somebody who answers events with commands has come (the reactor).
create table checkpoints (
    name     text   primary key,
    position bigint not null default 0
);

create schema access_tokens_v1;

create table access_tokens_v1.access_tokens (
    id                uuid        primary key,
    organization_id   uuid        not null,
    creator_id        uuid        not null,
    name              text        not null,
    name_key          text        not null,
    description       text,
    token_type        text        not null check (token_type in ('Personal', 'Service')),
    -- what the token's stream and its creator's removal come to; expiry is a matter of the hour and is looked at when read
    status            text        not null check (status in ('Active', 'Inactive')),
    inactive_reason   text,
    membership_number int         not null,
    statements        jsonb       not null,
    expires_at        timestamptz,
    allowed_ips       text[]      not null,
    digest            bytea       not null,
    hint              text        not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    created_position  bigint      not null,
    removed_at        timestamptz
);

create index access_tokens_newest_first
    on access_tokens_v1.access_tokens (organization_id, created_position desc) where removed_at is null;
create index access_tokens_by_creator on access_tokens_v1.access_tokens (organization_id, creator_id);
create index access_tokens_by_expiry
    on access_tokens_v1.access_tokens (expires_at) where removed_at is null and status = 'Active';

create view access_tokens as select * from access_tokens_v1.access_tokens;
insert into read_models (name, version) values ('access_tokens', 1);

create schema members_v1;

create table members_v1.members (
    organization_id   uuid   not null,
    member_id         uuid   not null,
    is_member         bool   not null,
    is_blocked        bool   not null,
    membership_number int    not null,
    -- the position of the last MemberAdded or PermissionsReplaced
    stated_position   bigint not null,
    -- the member as its stream gives it
    state             json   not null,
    primary key (organization_id, member_id)
);

create view members as select * from members_v1.members;
insert into read_models (name, version) values ('members', 1);
