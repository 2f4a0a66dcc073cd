-- Which nodes decide, and how far each has come: whoever revokes waits for all of them. The row is committed before the
-- node looks for the end of the log, and it decides for max_staleness_ms from before that commit, no longer. So whoever
-- commits an event and then reads these rows knows every node that may still decide without it.

create table leases (
    -- new with every start of a process
    node_id          uuid   primary key,
    -- counts the renewals: a row whose beat stood still for more than max_staleness_ms is nobody's any more; no beat of a
    -- node ever comes twice
    beat             bigint not null,
    applied          bigint not null,
    max_staleness_ms bigint not null check (max_staleness_ms > 0)
);

-- Which log this is. A new epoch makes every node forget what it knows and read it from the beginning.
create table log_epoch (
    epoch uuid not null
);

insert into log_epoch values (gen_random_uuid());
create unique index log_epoch_is_one_row on log_epoch ((true));
