//! Releases parked messages: takes them after all, in their order, or gives them up. A member is released when nothing parked
//! holds it any more. What this rests on (which messages are there) is held against the log's own rows by the append.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use domain::access_token::management::may_audit;
use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberChange, MemberCommand};
use domain::organization::Organization;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::membership::{
    Effect as Taking, Message, RawMessage, Taken, UNFIT, is_behind_parked, keys, streams, take, used_keys,
};
use super::{Actor, Appended, Attempts, CommandError, Commands, Done, Effect};
use crate::log::{InboxKey, ParkedChange, Partition, UnitOfWork};

/// Messages that are tried for one append.
const CHUNK: i64 = 500;
/// Bytes of their contents after which no further one is.
const CHUNK_BYTES: i64 = 1024 * 1024;

type MemberKey = (OrganizationId, MemberId);

/// A message that was set aside.
struct Parked {
    id: Uuid,
    nth: i64,
    reason: String,
    event_type: Option<String>,
    holds_key: bool,
    is_erased: bool,
    /// By the database's clock, as the log's times are.
    received_at: DateTime<Utc>,
    members: Vec<MemberKey>,
    raw: RawMessage,
}

/// How far a retry has come.
#[derive(Clone, Default)]
struct Progress {
    /// Everything up to here was tried.
    nth: i64,
    /// Whose first message can't be taken: nothing of theirs is, from there on.
    held: HashSet<MemberKey>,
    /// What was taken of them by this retry: of two that hold the same key the first one counts.
    keys: HashSet<InboxKey>,
    taken: Taken,
}

impl Commands {
    /// Takes what is parked of whoever the message is about, in its order, as far as it can be taken progress. `parked` of the
    /// result is how many stay.
    ///
    /// # Errors
    /// `NotFound`, and for a member `Forbidden` unless it manages IAM and the message is its organization's alone.
    pub async fn retry_parked(
        &self,
        by: &Actor,
        id: Uuid,
        understand: impl Fn(RawMessage) -> Message,
    ) -> Result<Done<Taken>, CommandError> {
        must_manage(&self.unit(by), by).await?;
        find_own(&self.pool, by, id).await?;
        let members = connected(&self.pool, id).await?;
        let mut progress = Progress::default();
        let mut attempts = Attempts::default();
        // Where the log refuses something of a chunk it is tried in halves, down to what is refused.
        let (mut limit, mut is_unfit) = (CHUNK, false);
        loop {
            let unit = self.unit(by);
            must_manage(&unit, by).await?;
            let chunk = next_chunk(&self.pool, id, &members, progress.nth, limit).await?;
            let mut next = progress.clone();
            if is_unfit {
                set_aside(&unit, &chunk, &mut next, UNFIT);
            } else {
                stage(&self.pool, &unit, &chunk, &mut next, &understand).await?;
            }
            // With the last of them, not after it: a retry that was cut off in between could not be taken up again.
            let is_last = chunk.is_empty()
                || next_chunk(&self.pool, id, &members, next.nth, 1)
                    .await?
                    .is_empty();
            if is_last {
                for member in members.iter().filter(|member| !next.held.contains(*member)) {
                    release(&unit, *member).await?;
                }
            }
            let last = match self.append(&unit).await {
                Ok(Some(Appended { last })) => last,
                Err(CommandError::Unfit(_)) if !chunk.is_empty() && !is_unfit => {
                    is_unfit = chunk.len() == 1;
                    limit = i64::try_from(chunk.len().div_euclid(2)).unwrap_or(CHUNK).max(1);
                    continue;
                }
                Ok(None) => {
                    attempts.again().await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(last) = last {
                next.taken.position = last.position;
            }
            if is_last {
                return self.retried(next.taken).await;
            }
            (progress, attempts) = (next, Attempts::default());
            (limit, is_unfit) = (limit.saturating_mul(2).min(CHUNK), false);
        }
    }

    async fn retried(&self, mut taken: Taken) -> Result<Done<Taken>, CommandError> {
        if taken.position == 0 {
            taken.position = self.head().await?;
        }
        Ok(Done {
            value: taken,
            position: taken.position,
            effect: Effect::TakesAway,
        })
    }

    /// Gives a message up: it will never be taken. Whoever nothing else holds is released.
    ///
    /// # Errors
    /// `NotFound`, and for a member `Forbidden` unless it manages IAM and the message is its organization's alone.
    pub async fn drop_parked(
        &self,
        by: &Actor,
        id: Uuid,
        understand: impl Fn(RawMessage) -> Message,
    ) -> Result<Done<()>, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(by);
            must_manage(&unit, by).await?;
            let message = find_own(&self.pool, by, id).await?;
            pass_key_on(&self.pool, &message, &understand).await?;
            unit.change_parked(ParkedChange::Gone { id });
            for member in &message.members {
                let change = MemberChange::DropMessage {
                    parked_id: id,
                    reason: message.reason.clone(),
                    message_type: message.event_type.clone(),
                };
                execute(&unit, *member, change).await?;
                if holds_another(&self.pool, *member, id).await? {
                    let (organization_id, member_id) = *member;
                    unit.change_parked(ParkedChange::Held {
                        organization_id,
                        member_id,
                    });
                } else {
                    release(&unit, *member).await?;
                }
            }
            if let Some(Appended { last }) = self.append(&unit).await? {
                tracing::info!(%id, reason = message.reason, "a parked message was dropped");
                return Ok(Done {
                    value: (),
                    position: match last {
                        Some(last) => last.position,
                        None => self.head().await?,
                    },
                    effect: Effect::Gives,
                });
            }
            attempts.again().await?;
        }
    }
}

/// A member needs to manage IAM, as its stream has it; an operator may release everything.
async fn must_manage(unit: &UnitOfWork, by: &Actor) -> Result<(), CommandError> {
    let Actor::Member(caller) = by else { return Ok(()) };
    let stream_id = Member::stream_id(caller.organization_id, caller.member_id);
    if unit.look(&stream_id, may_audit).await? {
        Ok(())
    } else {
        Err(CommandError::Forbidden)
    }
}

/// A member releases what is its organization's alone.
async fn find_own(pool: &PgPool, by: &Actor, id: Uuid) -> Result<Parked, CommandError> {
    let message = find(pool, id).await?.ok_or(CommandError::NotFound)?;
    let Actor::Member(caller) = by else {
        return Ok(message);
    };
    let is_own = |(organization_id, _): &MemberKey| *organization_id == caller.organization_id;
    if !message.members.iter().any(is_own) {
        return Err(CommandError::NotFound);
    }
    if message.members.iter().all(is_own) {
        Ok(message)
    } else {
        Err(CommandError::Forbidden)
    }
}

/// Stages what can be taken of a chunk. Whose message can't be is held from there on.
async fn stage(
    pool: &PgPool,
    unit: &UnitOfWork,
    chunk: &[Parked],
    progress: &mut Progress,
    understand: impl Fn(RawMessage) -> Message,
) -> Result<(), CommandError> {
    let messages: Vec<Message> = chunk
        .iter()
        .map(|parked| understand(parked.raw.clone()))
        .collect();
    let mut used = used_keys(pool, &keys(&messages).collect::<Vec<_>>()).await?;
    let removed = removed_organizations(pool, chunk).await?;
    unit.preload::<Member>(&streams(&messages)).await?;
    for (parked, message) in chunk.iter().zip(&messages) {
        progress.nth = parked.nth;
        let outcome =
            if parked.is_erased || parked.members.iter().any(|member| progress.held.contains(member)) {
                Outcome::Stays
            } else {
                retry(unit, parked, message, &mut used, &mut progress.keys).await?
            };
        match outcome {
            Outcome::Applied => {
                progress.taken.applied += 1;
                end_where_removed(unit, parked, &removed).await?;
            }
            Outcome::Stale => progress.taken.stale += 1,
            Outcome::Repeated => progress.taken.repeated += 1,
            Outcome::Stays | Outcome::StaysFor(_) => {
                progress.taken.parked += 1;
                progress.held.extend(&parked.members);
            }
        }
        match outcome {
            Outcome::Applied | Outcome::Stale | Outcome::Repeated => {
                unit.change_parked(ParkedChange::Gone { id: parked.id });
            }
            Outcome::StaysFor(reason) => unit.change_parked(ParkedChange::Stays {
                id: parked.id,
                reason: reason.to_owned(),
                event_type: message.event_type().map(ToOwned::to_owned),
            }),
            Outcome::Stays => {}
        }
    }
    Ok(())
}

/// When organizations were removed last, by the log.
async fn removed_organizations(
    pool: &PgPool,
    chunk: &[Parked],
) -> Result<HashMap<OrganizationId, DateTime<Utc>>, CommandError> {
    let organizations: HashSet<String> = chunk
        .iter()
        .flat_map(|parked| &parked.members)
        .map(|(organization_id, _)| organization_id.to_string())
        .collect();
    let removed: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
        "select organization_id, max(recorded_at) from events
         where aggregate_type = $1 and aggregate_id = any($2) group by organization_id",
    )
    .bind(Organization::TYPE)
    .bind(organizations.into_iter().collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(removed.into_iter().map(|(id, at)| (id.into(), at)).collect())
}

/// Whose organization was removed since the message came had left with it, had the message been taken in its time.
async fn end_where_removed(
    unit: &UnitOfWork,
    parked: &Parked,
    removed: &HashMap<OrganizationId, DateTime<Utc>>,
) -> Result<(), CommandError> {
    for member in &parked.members {
        if removed.get(&member.0).is_some_and(|at| *at >= parked.received_at) {
            execute(unit, *member, MemberChange::EndWithOrganization).await?;
        }
    }
    Ok(())
}

/// Leaves a chunk where it is, for this reason.
fn set_aside(unit: &UnitOfWork, chunk: &[Parked], progress: &mut Progress, reason: &str) {
    for parked in chunk {
        progress.nth = parked.nth;
        progress.taken.parked += 1;
        progress.held.extend(&parked.members);
        unit.change_parked(ParkedChange::Stays {
            id: parked.id,
            reason: reason.to_owned(),
            event_type: parked.event_type.clone(),
        });
    }
}

/// What a retry of one message comes to.
enum Outcome {
    Applied,
    Stale,
    Repeated,
    Stays,
    StaysFor(&'static str),
}

async fn retry(
    unit: &UnitOfWork,
    parked: &Parked,
    message: &Message,
    used: &mut HashSet<InboxKey>,
    taken: &mut HashSet<InboxKey>,
) -> Result<Outcome, CommandError> {
    let event = match &message.meaning {
        Ok(event) => event,
        Err(unusable) => return Ok(Outcome::StaysFor(unusable.reason)),
    };
    // It may turn out to be about somebody whom it did not hold: then it waits for what does.
    let is_elsewhere = message
        .members()
        .iter()
        .any(|member| !parked.members.contains(member));
    if is_elsewhere && is_behind_parked(unit, event).await? {
        return Ok(Outcome::Stays);
    }
    if taken.contains(&event.key) || (!parked.holds_key && used.contains(&event.key)) {
        return Ok(Outcome::Repeated);
    }
    let outcome = match take(unit, event).await? {
        Taking::Applied => Outcome::Applied,
        Taking::Stale => Outcome::Stale,
        Taking::CannotBeTaken(reason) => return Ok(Outcome::StaysFor(reason)),
    };
    if !parked.holds_key {
        unit.use_key(event.key.clone());
        used.insert(event.key.clone());
    }
    taken.insert(event.key.clone());
    Ok(outcome)
}

/// What a message that is given up was known by goes to the first of its like that was parked before anybody could understand
/// it, if there is one: taken later, that is no repetition of what was never taken.
async fn pass_key_on(
    pool: &PgPool,
    message: &Parked,
    understand: impl Fn(RawMessage) -> Message,
) -> Result<(), CommandError> {
    let key_of = |parked: &Parked| understand(parked.raw.clone()).meaning.ok().map(|event| event.key);
    let Some(key) = key_of(message).filter(|_| message.holds_key) else {
        return Ok(());
    };
    let members = message.members.iter().copied().collect();
    let mut nth = 0;
    loop {
        let chunk = next_chunk(pool, message.id, &members, nth, CHUNK).await?;
        let Some(last) = chunk.last() else {
            return Ok(());
        };
        nth = last.nth;
        let is_like_it = |parked: &&Parked| {
            parked.id != message.id && !parked.holds_key && key_of(parked).as_ref() == Some(&key)
        };
        if let Some(like_it) = chunk.iter().find(is_like_it) {
            sqlx::query("update parked_messages set holds_key = true where id = $1")
                .bind(like_it.id)
                .execute(pool)
                .await?;
            return Ok(());
        }
    }
}

async fn release(unit: &UnitOfWork, member: MemberKey) -> Result<(), CommandError> {
    let (organization_id, member_id) = member;
    execute(unit, member, MemberChange::Release).await?;
    unit.change_parked(ParkedChange::Release {
        organization_id,
        member_id,
    });
    Ok(())
}

async fn execute(
    unit: &UnitOfWork,
    (organization_id, member_id): MemberKey,
    change: MemberChange,
) -> Result<(), CommandError> {
    let command = MemberCommand {
        organization_id,
        member_id,
        change,
    };
    unit.execute::<Member>(&Member::stream_id(organization_id, member_id), command)
        .await?
        .map_err(|refusal| CommandError::Internal(refusal.into()))
}

const COLUMNS: &str =
    "m.id, m.nth, m.reason, m.event_type, m.holds_key, m.erased_at is not null as is_erased, m.received_at, m.cluster_id,
    m.topic, m.partition, m.message_offset, m.message_key, m.headers, m.payload,
    coalesce((select jsonb_agg(jsonb_build_array(h.organization_id, h.member_id)) from parked_members h
              where h.message_id = m.id), '[]') as members";

async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Parked>, CommandError> {
    let row = sqlx::query(&format!(
        "select {COLUMNS} from parked_messages m where m.id = $1"
    ))
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(row.as_ref().map(Parked::of).transpose()?)
}

/// Everybody who is held by the message, by another one that holds one of them, and so on.
async fn connected(pool: &PgPool, id: Uuid) -> Result<BTreeSet<MemberKey>, CommandError> {
    let members: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "with recursive held (organization_id, member_id) as (
             select organization_id, member_id from parked_members where message_id = $1
             union
             select o.organization_id, o.member_id
             from held join parked_members m using (organization_id, member_id)
             join parked_members o on o.message_id = m.message_id
         )
         select organization_id, member_id from held",
    )
    .bind(id)
    .fetch_all(pool)
    .await?;
    Ok(members
        .into_iter()
        .map(|(organization_id, member_id)| (organization_id.into(), member_id.into()))
        .collect())
}

async fn holds_another(
    pool: &PgPool,
    (organization_id, member_id): MemberKey,
    id: Uuid,
) -> Result<bool, CommandError> {
    let exists = sqlx::query_scalar(
        "select exists (select from parked_members where organization_id = $1 and member_id = $2 and message_id <> $3)",
    );
    Ok(exists
        .bind(organization_id.as_uuid())
        .bind(member_id.as_uuid())
        .bind(id)
        .fetch_one(pool)
        .await?)
}

/// The next of what holds these members, the one message itself included, in its order after the nth.
async fn next_chunk(
    pool: &PgPool,
    id: Uuid,
    members: &BTreeSet<MemberKey>,
    nth: i64,
    limit: i64,
) -> Result<Vec<Parked>, CommandError> {
    let (organizations, ids): (Vec<Uuid>, Vec<Uuid>) = members
        .iter()
        .map(|(organization_id, member_id)| (organization_id.as_uuid(), member_id.as_uuid()))
        .unzip();
    let rows = sqlx::query(&format!(
        "select {COLUMNS}
         from (
             select p.*, coalesce(sum(length(p.payload)) over (
                        order by p.nth rows between unbounded preceding and 1 preceding), 0) as bytes_before
             from (
                 select * from parked_messages
                 where nth > $4 and (id = $1 or id in (
                     select h.message_id from parked_members h
                     join unnest($2::uuid[], $3::uuid[]) as whom (organization_id, member_id)
                         using (organization_id, member_id)))
                 order by nth limit $5
             ) p
         ) m
         where m.bytes_before < $6
         order by m.nth"
    ))
    .bind(id)
    .bind(organizations)
    .bind(ids)
    .bind(nth)
    .bind(limit)
    .bind(CHUNK_BYTES)
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(Parked::of).collect::<Result<_, _>>()?)
}

impl Parked {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let partition = match row.try_get("cluster_id")? {
            Some(cluster_id) => Some(Partition {
                cluster_id,
                topic: row.try_get("topic")?,
                partition: row.try_get("partition")?,
            }),
            None => None,
        };
        let Json(headers) = row.try_get("headers")?;
        let Json(members) = row.try_get("members")?;
        Ok(Self {
            id: row.try_get("id")?,
            nth: row.try_get("nth")?,
            reason: row.try_get("reason")?,
            event_type: row.try_get("event_type")?,
            holds_key: row.try_get("holds_key")?,
            is_erased: row.try_get("is_erased")?,
            received_at: row.try_get("received_at")?,
            members,
            raw: RawMessage {
                partition,
                offset: row.try_get("message_offset")?,
                sent_at: None,
                key: row.try_get("message_key")?,
                headers,
                payload: row.try_get("payload")?,
            },
        })
    }
}
