//! Answers facts with commands: a removed creator's personal tokens are deactivated in the log, an expired token too, a
//! removed organization's members and tokens are removed. Nobody waits for it: the index and the read models already deny.
//! Its checkpoint moves after the commands, and each command is idempotent, so it may be killed at any point.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use projections::checkpoint;
use projections::log::{Fact, ReadLogError, RecordedEvent, all_but, read_after_without};
use projections::runner::{ReadModel, Runner};
use sqlx::PgPool;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commands::{CommandError, Commands};
use crate::database::within;
use crate::follow::Follower;
use crate::report::Report;

const NAME: &str = "reactor";
/// Events in one step.
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

/// Follows the log and the hour.
#[derive(Debug)]
pub struct Reactor {
    pool: PgPool,
    commands: Commands,
    access_tokens: Runner,
    members: Runner,
    /// The types of events that ask for no answer.
    unwanted: Vec<&'static str>,
}

impl Reactor {
    /// One that writes by these commands.
    #[must_use]
    pub fn new(pool: PgPool, commands: Commands) -> Self {
        let access_tokens = Runner::live(pool.clone(), ReadModel::AccessTokens);
        let members = Runner::live(pool.clone(), ReadModel::Members);
        Self {
            pool,
            commands,
            access_tokens,
            members,
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
        let (from, page) = {
            let mut connection = self.pool.acquire().await?;
            let from = checkpoint::of_follower(&mut connection, NAME).await?;
            let page = read_after_without(&mut connection, from, BATCH, &self.unwanted).await?;
            (from, page)
        };
        for event in &page.events {
            self.answer(event).await?;
        }
        let to = page.last_position;
        if to > from {
            let mut connection = self.pool.acquire().await?;
            // Where another node was faster its answers stand, and these changed nothing.
            checkpoint::move_follower(&mut connection, NAME, from, to).await?;
        }
        self.expire().await?;
        Ok(Step { from, to })
    }

    async fn answer(&self, event: &RecordedEvent) -> Result<(), ReactError> {
        match &event.fact {
            Fact::Member(MemberEvent::Removed {
                organization_id,
                member_id,
                membership_number,
                ..
            }) => {
                self.creator_removed(event.position, *organization_id, *member_id, *membership_number)
                    .await
            }
            Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                self.organization_removed(event.position, *organization_id).await
            }
            Fact::Member(_) | Fact::AccessToken(_) => Ok(()),
        }
    }

    async fn creator_removed(
        &self,
        position: i64,
        organization_id: OrganizationId,
        member_id: MemberId,
        membership_number: u32,
    ) -> Result<(), ReactError> {
        wait_for(&self.access_tokens, position).await?;
        let tokens: Vec<Uuid> = sqlx::query_scalar(
            "select id from access_tokens
             where organization_id = $1 and creator_id = $2 and token_type = 'Personal' and removed_at is null
               and created_position < $3",
        )
        .bind(organization_id.as_uuid())
        .bind(member_id.as_uuid())
        .bind(position)
        .fetch_all(&self.pool)
        .await?;
        for token_id in tokens {
            self.commands
                .deactivate_with_creator(TokenId::from(token_id), membership_number)
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
