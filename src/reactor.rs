//! Answers facts with commands: a removed creator's personal tokens are deactivated in the log, an expired token too, a
//! removed organization's members and tokens are removed. Nobody waits for it: the index and the read models already deny.
//! Its checkpoint moves after the commands, and each command is idempotent, so it may be killed at any point.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use projections::checkpoint;
use projections::log::{Fact, ReadLogError, RecordedEvent, all_but};
use projections::runner::{ReadModel, Runner};
use projections::tail::Tail;
use sqlx::PgPool;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commands::{CommandError, Commands};
use crate::database::within;
use crate::follow::Follower;
use crate::report::Report;

const NAME: &str = "reactor";
/// Events in one step; from memory, a whole page.
const BATCH: i64 = 1000;
/// The longest time between two looks, and so the latest that an expiry is written down.
const POLL: Duration = Duration::from_millis(500);
/// Between two steps while there is something to do: nobody waits for what is done here, and each step costs the disk a write.
const PACE: Duration = Duration::from_millis(100);
/// A step that takes longer has failed; what it has done stands, and the next one finds less to do.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// After a failed step.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Expired tokens in one step.
const EXPIRED: i64 = 100;

/// Why a step failed; it is taken again.
#[derive(Debug, Error)]
enum ReactError {
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Read(#[from] ReadLogError),
    #[error("a command failed")]
    Command(#[from] CommandError),
    #[error("a read model is behind")]
    Behind,
}

/// How far a step has come.
struct Step {
    from: i64,
    to: i64,
}

/// A member who was removed, and whose personal tokens go too.
struct RemovedCreator {
    /// Where in the log.
    position: i64,
    organization_id: OrganizationId,
    member_id: MemberId,
    membership_number: u32,
}

/// Follows the log and the hour.
#[derive(Debug)]
pub struct Reactor {
    pool: PgPool,
    commands: Commands,
    access_tokens: Runner,
    members: Runner,
    tail: Tail,
    /// The types of events that ask for no answer.
    unwanted: Vec<&'static str>,
}

impl Reactor {
    /// One that writes by these commands, and reads what others have read of the log.
    #[must_use]
    pub fn new(pool: PgPool, commands: Commands, tail: Tail) -> Self {
        let access_tokens = Runner::live(pool.clone(), ReadModel::AccessTokens).behind(tail.clone());
        let members = Runner::live(pool.clone(), ReadModel::Members).behind(tail.clone());
        Self {
            pool,
            commands,
            access_tokens,
            members,
            tail,
            unwanted: all_but(is_answered),
        }
    }

    /// Until it is told to stop.
    pub async fn run(self, mut wake: Follower, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match within(STEP_LIMIT, self.step()).await {
                Ok(Step { from, to }) if to > from => tokio::time::sleep(PACE).await,
                Ok(Step { to, .. }) => wake.next(to, POLL, &stop).await,
                Err(error) => {
                    tracing::error!(
                        error = %Report(&error),
                        "the reactor failed and tries again"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(BACK_OFF) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Answers the next events, and whatever has expired.
    async fn step(&self) -> Result<Step, ReactError> {
        let (from, stretch) = {
            let mut connection = self.pool.acquire().await?;
            let from = checkpoint::of_follower(&mut connection, NAME).await?;
            let stretch = self
                .tail
                .read_after_without(&mut connection, from, BATCH, &self.unwanted)
                .await?;
            (from, stretch)
        };
        self.answer(&stretch.events).await?;
        let to = stretch.last_position;
        if to > from {
            let mut connection = self.pool.acquire().await?;
            // Where another node was faster its answers stand, and these changed nothing.
            checkpoint::move_follower(&mut connection, NAME, from, to).await?;
        }
        self.expire().await?;
        Ok(Step { from, to })
    }

    /// In their order; removals of creators that follow each other at once.
    async fn answer(&self, events: &[Arc<RecordedEvent>]) -> Result<(), ReactError> {
        let mut removed = Vec::new();
        for event in events {
            match &event.fact {
                Fact::Member(MemberEvent::Removed {
                    organization_id,
                    member_id,
                    membership_number,
                    ..
                }) => removed.push(RemovedCreator {
                    position: event.position,
                    organization_id: *organization_id,
                    member_id: *member_id,
                    membership_number: *membership_number,
                }),
                Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                    self.creators_removed(std::mem::take(&mut removed)).await?;
                    self.organization_removed(event.position, *organization_id)
                        .await?;
                }
                Fact::Member(_) | Fact::AccessToken(_) => {}
            }
        }
        self.creators_removed(removed).await
    }

    async fn creators_removed(&self, removed: Vec<RemovedCreator>) -> Result<(), ReactError> {
        let Some(last) = removed.last() else {
            return Ok(());
        };
        wait_for(&self.access_tokens, last.position).await?;
        let tokens: Vec<(Uuid, i64)> = sqlx::query_as(
            "select t.id, removed.nth
             from unnest($1::uuid[], $2::uuid[], $3::bigint[]) with ordinality as removed (organization_id, creator_id, position, nth)
             join access_tokens t using (organization_id, creator_id)
             where t.token_type = 'Personal' and t.removed_at is null and t.created_position < removed.position
             order by removed.nth",
        )
        .bind(removed.iter().map(|it| it.organization_id.as_uuid()).collect::<Vec<_>>())
        .bind(removed.iter().map(|it| it.member_id.as_uuid()).collect::<Vec<_>>())
        .bind(removed.iter().map(|it| it.position).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        for (token_id, nth) in tokens {
            let nth = usize::try_from(nth).ok().and_then(|nth| nth.checked_sub(1));
            let Some(creator) = nth.and_then(|nth| removed.get(nth)) else {
                continue;
            };
            self.commands
                .deactivate_with_creator(TokenId::from(token_id), creator.membership_number)
                .await?;
        }
        Ok(())
    }

    /// First the members: once they are gone nobody can make another token, and then the tokens are all there.
    async fn organization_removed(
        &self,
        position: i64,
        organization_id: OrganizationId,
    ) -> Result<(), ReactError> {
        wait_for(&self.members, position).await?;
        let members: Vec<Uuid> = sqlx::query_scalar(
            "select member_id from members where organization_id = $1 and stated_position < $2",
        )
        .bind(organization_id.as_uuid())
        .bind(position)
        .fetch_all(&self.pool)
        .await?;
        for member_id in members {
            self.commands
                .end_membership(organization_id, MemberId::from(member_id), position)
                .await?;
        }
        // Straight from the log: the read model shows them as removed already, and may not show the last ones yet. Those
        // made later by a member who was added again stay.
        let tokens: Vec<String> = sqlx::query_scalar(
            "select c.aggregate_id from events c
             where c.organization_id = $1 and c.event_type = 'access_token.created'
               and not exists (
                   select from events a
                   where a.aggregate_type = 'member' and a.aggregate_id = $1::text || ':' || (c.payload->>'creatorId')
                     and a.event_type = 'member.added' and a.position > $2 and a.position < c.position)",
        )
        .bind(organization_id.as_uuid())
        .bind(position)
        .fetch_all(&self.pool)
        .await?;
        for token_id in tokens.iter().filter_map(|id| id.parse::<TokenId>().ok()) {
            self.commands.remove_unasked(token_id).await?;
        }
        Ok(())
    }

    /// By the database's own time: what is written here is written for ever.
    async fn expire(&self) -> Result<(), ReactError> {
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&self.pool)
            .await?;
        let tokens: Vec<Uuid> = sqlx::query_scalar(
            "select id from access_tokens
             where removed_at is null and status = 'Active' and expires_at <= $1
             order by expires_at limit $2",
        )
        .bind(now)
        .bind(EXPIRED)
        .fetch_all(&self.pool)
        .await?;
        for token_id in tokens {
            self.commands.expire(TokenId::from(token_id), now).await?;
        }
        Ok(())
    }
}

/// Whether [`Reactor::answer`] has an answer to events of this type.
fn is_answered(event_type: &str) -> bool {
    event_type == MemberEvent::REMOVED || OrganizationEvent::TYPES.contains(&event_type)
}

/// The read model is written by another task, of this node or another; it is waited for, but not for ever.
async fn wait_for(read_model: &Runner, position: i64) -> Result<(), ReactError> {
    const TRIES: u32 = 400;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 0..TRIES {
        if read_model.position().await? >= position {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ReactError::Behind)
}
