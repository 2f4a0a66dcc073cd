-- Replays: a read model has one live version, and perhaps another that is being filled beside it, in a schema
-- `<name>_v<version>` of its own. A switch moves the pointer here and the view in one transaction.
--
-- A statement at read committed may go by the view. Whoever reads rows and checkpoint in one older snapshot may not: a view
-- is looked up as it is now, not as it was then. It takes the version from here and reads that schema's tables by name; where
-- they were dropped in between, it starts over.

alter table read_models add column is_live bool not null default false;
-- which revision of the projector fills it: what another one has begun is not gone on with
alter table read_models add column revision int not null default 1;

update read_models r set is_live = true
where r.version = (select max(version) from read_models latest where latest.name = r.name);

create unique index read_models_live on read_models (name) where is_live;
