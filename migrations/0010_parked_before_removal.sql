-- When a message was parked is compared with when its organization was removed. By the beginning of its append a message that
-- came with the removal, or waited for its turn meanwhile, counts as the earlier one: released, it makes nobody a member.
alter table parked_messages alter column received_at set default now();
