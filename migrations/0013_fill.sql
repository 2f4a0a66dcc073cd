-- A version that is filled anew is filled organization after organization, up to the position that fills_to says, of which
-- filled_organization is the last that is complete. Until then its position is 0 and says nothing; from then on it is
-- followed on like any other, and these are null.

alter table read_models add column fills_to bigint;
alter table read_models add column filled_organization uuid;

-- What an older version has begun has no indexes for readers.
update read_models set revision = 0 where not is_live;
