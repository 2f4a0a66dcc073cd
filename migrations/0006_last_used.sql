-- When each token was last used. Not of the log: a use changes nothing. Every node adds what it has seen, now and then; the
-- latest time stays.

create table access_token_uses (
    token_id     uuid        primary key,
    last_used_at timestamptz not null
);
