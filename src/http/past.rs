//! Decisions from the log: would it have been allowed then, and which statements have a say in it. They are made by the rules
//! of live decisions from the events up to a position, so they need the database, and are bounded in time and in how many are
//! made at once; what can't be answered within these bounds is denied as by a node that does not know the log.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use domain::as_of::{AsOf, Say, Source};
use domain::authorization::{Answer, Question, Reason};
use domain::ids::TokenId;
use domain::policy::{Effect, ResourcePattern, StatementId};
use domain::secret::SecretDigest;
use projections::as_of::{member_as_of, position_at, recorded_at, token_as_of};
use projections::log::ReadLogError;
use serde::Serialize;
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::openapi::schemas;
use super::question::Asked;
use super::{MICROSECONDS, POSITION_PATIENCE, Service};
use crate::authorization::{Bearer, Subject};
use crate::report::Report;

/// Decisions made from the log at once: they leave most connections to others.
const AT_ONCE: usize = 4;
/// How long all of one request's may take together.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Lets so many be made at once.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// For when a decision is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    Now,
    Position(i64),
    Time(DateTime<Utc>),
}

/// A decision from the log.
#[derive(Debug)]
pub(super) struct Recalled {
    pub(super) position: i64,
    pub(super) reason: Reason,
    pub(super) statement_id: Option<StatementId>,
    pub(super) says: Vec<Say>,
}

/// A statement that has a say in the question, or had.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Say)]
pub(super) struct SayBody {
    /// Whose it is: the service `token`'s own, the `member`'s (of a personal token, its creator's), or the `scope` to which a
    /// personal token was narrowed.
    #[schema(schema_with = schemas::source)]
    source: &'static str,
    /// Absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[schema(schema_with = schemas::effect)]
    effect: Effect,
    /// The pattern by which it speaks of the resource; null where it speaks of everything.
    #[schema(value_type = Option<String>, required)]
    pattern: Option<ResourcePattern>,
    /// Of the event that put it in force.
    #[schema(minimum = 1)]
    position: i64,
    /// Of the event that took this from it; absent where nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    revoked_at: Option<i64>,
}

impl From<Say> for SayBody {
    fn from(say: Say) -> Self {
        Self {
            source: match say.source {
                Source::Token => "token",
                Source::Member => "member",
                Source::Scope => "scope",
            },
            id: say.statement.id,
            effect: say.statement.effect,
            pattern: say.pattern,
            position: say.position,
            revoked_at: say.revoked_at,
        }
    }
}

/// The decision, by then; an error where the question can't be asked.
pub(super) async fn recall(
    service: &Service,
    asked: &Asked<'_>,
    deadline: Instant,
) -> Result<Recalled, String> {
    let recalled = timeout_at(deadline, async {
        // It is never closed.
        let _turn = service.turns.0.acquire().await;
        from_log(service, asked).await
    });
    match recalled.await {
        Ok(Ok(recalled)) => Ok(recalled),
        Ok(Err(NotRecalled::Wrong(why))) => Err(why),
        Ok(Err(NotRecalled::Stale)) | Err(_) => Ok(stale(service)),
        Ok(Err(NotRecalled::Log(error))) => {
            tracing::warn!(error = %Report(&error), "a decision can't be made from the log");
            Ok(stale(service))
        }
    }
}

enum NotRecalled {
    /// The question.
    Wrong(String),
    /// What it asks for is not known here.
    Stale,
    Log(ReadLogError),
}

impl From<sqlx::Error> for NotRecalled {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(error.into())
    }
}

impl From<ReadLogError> for NotRecalled {
    fn from(error: ReadLogError) -> Self {
        Self::Log(error)
    }
}

fn stale(service: &Service) -> Recalled {
    Recalled {
        position: service.index.position(),
        reason: Reason::StaleReplica,
        statement_id: None,
        says: Vec::new(),
    }
}

async fn from_log(service: &Service, asked: &Asked<'_>) -> Result<Recalled, NotRecalled> {
    let at_least = match asked.when {
        When::Position(position) => position.max(asked.at_least),
        When::Now | When::Time(_) => asked.at_least,
    };
    if !service.index.reached(at_least, POSITION_PATIENCE).await {
        return Err(NotRecalled::Stale);
    }
    // Before anything is looked at: what is answered for now has to be known up to now.
    let pass = service.index.fence().pass();
    // Whoever it is, before the position that is answered is looked at: what is found can only be newer.
    let who = Who::of(service, &asked.subject)?;
    let mut connection = service.pool.acquire().await?;
    let (position, now) = moment(service, &mut connection, asked.when).await?;
    let question = Question {
        action: asked.action,
        resource: asked.resource,
        organization_id: asked.organization_id,
        address: asked.address,
        now,
    };
    let as_of = who.as_of(&mut connection, position).await?;
    drop(connection);
    // To weigh every revocation of a long history against every statement takes a while.
    let (reason, statement_id) = block_in_place(|| who.decide(as_of.as_ref(), &question));
    let says = match as_of {
        Some(as_of) if asked.explains => block_in_place(|| as_of.says(&question)),
        _ => Vec::new(),
    };
    if asked.when == When::Now && !service.index.fence().holds(pass) {
        return Err(NotRecalled::Stale);
    }
    Ok(Recalled {
        position,
        reason,
        statement_id,
        says,
    })
}

/// The position up to which events count, and the time.
async fn moment(
    service: &Service,
    connection: &mut PgConnection,
    when: When,
) -> Result<(i64, DateTime<Utc>), NotRecalled> {
    match when {
        When::Now => Ok((service.index.position(), service.clock.now())),
        When::Position(position) => {
            // Before the first event nobody was there, whatever the time.
            let recorded_at = recorded_at(connection, position).await?;
            Ok((position, recorded_at.unwrap_or(DateTime::UNIX_EPOCH)))
        }
        When::Time(time) => {
            let time = time.trunc_subsecs(MICROSECONDS);
            let position = position_at(connection, time).await?;
            let position =
                position.ok_or_else(|| NotRecalled::Wrong("context.atTime is still to come".to_owned()))?;
            Ok((position, time))
        }
    }
}

/// Who is asked about, as far as it can be told now.
enum Who<'s> {
    Token(TokenId, Option<SecretDigest>),
    Other(&'s Subject),
}

impl<'s> Who<'s> {
    /// The token of a secret is the one that has it now.
    fn of(service: &Service, subject: &'s Subject) -> Result<Self, NotRecalled> {
        let digest = match subject {
            Subject::Token(token_id) => return Ok(Self::Token(*token_id, None)),
            Subject::Secret(digest) => *digest,
            Subject::Member(..) | Subject::NoMember | Subject::Unknown => return Ok(Self::Other(subject)),
        };
        let question = Question {
            action: "",
            resource: "",
            organization_id: None,
            address: None,
            now: service.clock.now(),
        };
        let find = |_, answer: Answer<'_>, bearer: Option<Bearer>| match bearer {
            Some(bearer) => Ok(Self::Token(bearer.token_id, Some(digest))),
            None if answer.reason == Reason::StaleReplica => Err(NotRecalled::Stale),
            None => Ok(Self::Other(&Subject::Unknown)),
        };
        service.index.decide_for_bearer(subject, &question, 0, find)
    }

    async fn as_of(
        &self,
        connection: &mut PgConnection,
        position: i64,
    ) -> Result<Option<AsOf>, ReadLogError> {
        match self {
            Self::Token(token_id, _) => token_as_of(connection, None, *token_id, position).await,
            Self::Other(Subject::Member(organization_id, member_id)) => {
                member_as_of(connection, *organization_id, *member_id, position)
                    .await
                    .map(Some)
            }
            Self::Other(_) => Ok(None),
        }
    }

    fn decide(&self, as_of: Option<&AsOf>, question: &Question<'_>) -> (Reason, Option<StatementId>) {
        match (self, as_of) {
            (Self::Token(_, presented), Some(as_of)) => as_of.decide(presented.as_ref(), question),
            (Self::Other(Subject::Member(organization_id, _)), Some(as_of)) => {
                as_of.decide_for_member(*organization_id, question)
            }
            (Self::Other(Subject::Member(..) | Subject::NoMember), _) => (Reason::CreatorNotAMember, None),
            (Self::Token(..) | Self::Other(_), _) => (Reason::UnknownToken, None),
        }
    }
}
