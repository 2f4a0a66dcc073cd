-- What a node starts its index from: every token as decisions know it, and the members they depend on, as of one position.
-- Nobody else reads it. Written by the domain's own fold, so that an index that is started from it decides as one that has
-- read the whole log.

create schema credentials_v1;

create table credentials_v1.credentials (
    token_id          uuid        primary key,
    organization_id   uuid        not null,
    creator_id        uuid        not null,
    created_position  bigint      not null,
    token_type        text        not null,
    state             text        not null,
    membership_number int         not null,
    expires_at        timestamptz,
    allowed_ips       text[]      not null,
    digest            bytea       not null,
    previous_digest   bytea,
    previous_until    timestamptz,
    -- the statements without their ids, null where there are none: the same text for all that have the same permission
    rules             text,
    -- what those are called, null where none has a name
    statement_ids     json
);

create index credentials_by_organization on credentials_v1.credentials (organization_id);

create table credentials_v1.creators (
    organization_id   uuid        not null,
    member_id         uuid        not null,
    -- the member as its stream gives it up to this sequence
    state             json        not null,
    sequence          bigint      not null,
    -- its organization was removed, and it has not been added since
    has_ended         bool        not null,
    primary key (organization_id, member_id)
);

create view credentials as select * from credentials_v1.credentials;
create view creators as select * from credentials_v1.creators;
insert into read_models (name, version, is_live) values ('credentials', 1, true);
