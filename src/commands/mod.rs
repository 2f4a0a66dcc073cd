//! The only writer: load the streams, let the domain decide, append, retry on conflict, answer with the position. One file
//! per subject; what they share is here. Authorizes from the streams it guards: loaded, or where a first attempt presumes
//! what the index knows of its caller, held against the stream by the append, and never refused by it.

pub mod access_tokens;
pub mod counters;
pub mod housekeeping;
pub mod issuing;
mod known_keys;
mod known_members;
pub mod membership;
pub mod parked;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::access_token::AccessTokenRefusal;
use domain::ids::{MemberId, OrganizationId};
use domain::member::Member;
use domain::policy::Statement;
use projections::log::last_position;
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use uuid::Uuid;

use self::counters::MessageCounts;
use self::known_keys::KnownKeys;
use self::known_members::KnownMembers;
use self::turns::Turns;
use crate::clock::Clock;
use crate::log::{AppendError, AppendOutcome, Appender, Recorded, UnitError, UnitOfWork};

/// How often a command is decided again after a conflict.
const MAX_ATTEMPTS: u32 = 8;
/// Pairs of an action and a resource, times the statements they are weighed against, that take no time worth speaking of.
const LIGHT: usize = 1000;
/// The first pause between two attempts; each is longer by this.
const PAUSE: Duration = Duration::from_millis(3);

/// Carries out commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    pool: PgPool,
    appender: Appender,
    clock: Clock,
    max_tokens: u32,
    weighing: Arc<Semaphore>,
    turns: Turns,
    known_members: KnownMembers,
    known_keys: KnownKeys,
    message_counts: MessageCounts,
}

/// Who asks for a command, as each of its events will say.
#[derive(Clone, Debug)]
pub enum Actor {
    /// A member, over HTTP.
    Member(Caller),
    /// The membership topic.
    Intake,
    /// Whoever has the database's owner's password, on the command line.
    Operator,
    /// The service itself, answering an event or the hour.
    Reactor,
}

/// A member who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// In which organization.
    pub organization_id: OrganizationId,
    /// Who.
    pub member_id: MemberId,
    /// From which request.
    pub request_id: String,
    /// The caller as this node knows it. A command rests its first attempt on it, guarded like anything that was loaded;
    /// nobody is refused by it.
    pub known: Option<KnownMember>,
}

/// A member as of some sequence of its stream.
#[derive(Clone, Debug)]
pub struct KnownMember {
    /// What the stream comes to.
    pub member: Arc<Member>,
    /// The last sequence that counts.
    pub sequence: i64,
}

/// What a command came to, and where in the log that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The result.
    pub value: T,
    /// The position of its last event; of the stream's last event where nothing had to change.
    pub position: i64,
    /// Which way it went.
    pub effect: Effect,
}

/// Whether what was asked for can take something away from anybody who has the token's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It can't.
    Gives,
    /// It can: some node may accept for a moment what is not allowed any more.
    TakesAway,
}

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The caller may not.
    #[error("not permitted")]
    Forbidden,
    /// There is no such token in the caller's organization.
    #[error("no such token")]
    NotFound,
    /// The organization has as many tokens as it may have.
    #[error("the organization has too many tokens")]
    TooManyTokens,
    /// Another token of the organization has the name.
    #[error("the name is taken")]
    NameTaken,
    /// The idempotency key stands for something else.
    #[error("the idempotency key was used for something else")]
    IdempotencyKeyReused,
    /// The token can't be made what is asked.
    #[error(transparent)]
    Refused(#[from] AccessTokenRefusal),
    /// It kept conflicting.
    #[error("kept conflicting with other commands")]
    Conflict,
    /// The partition is somebody else's now.
    #[error("another reader has moved the partition's offset")]
    OffsetFenced,
    /// The log does not take what the command comes to, now or ever.
    #[error("the log refuses it")]
    Unfit(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The log is out of reach.
    #[error("the log is out of reach")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fault of ours, or of the log's contents.
    #[error("the command failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<UnitError> for CommandError {
    fn from(error: UnitError) -> Self {
        match error {
            UnitError::Read(error) => error.into(),
            UnitError::Load(_) | UnitError::Stage(_) => Self::Internal(error.into()),
        }
    }
}

impl From<sqlx::Error> for CommandError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<AppendError> for CommandError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unavailable => Self::Unavailable(error.into()),
            AppendError::Refused(_) => Self::Unfit(error.into()),
        }
    }
}

impl Commands {
    /// Commands that write through this appender, for organizations of at most so many tokens.
    #[must_use]
    pub fn new(pool: PgPool, appender: Appender, clock: Clock, max_tokens: u32) -> Self {
        Self {
            pool,
            appender,
            clock,
            max_tokens,
            weighing: Arc::new(Semaphore::new(weighed_at_once())),
            turns: Turns::default(),
            known_members: KnownMembers::default(),
            known_keys: KnownKeys::default(),
            message_counts: MessageCounts::default(),
        }
    }

    /// Counts of what became of membership messages; the same counts, however often it is asked for.
    #[must_use]
    pub fn message_counts(&self) -> MessageCounts {
        self.message_counts.clone()
    }

    /// Weighs statements against a member's permission: for the largest token that takes a third of a second, in which this
    /// thread's other requests go on elsewhere. However many ask for it, decisions keep half of the machine.
    async fn weigh<'a, T>(
        &self,
        member: &Member,
        statements: impl IntoIterator<Item = &'a Statement>,
        weigh: impl FnOnce() -> T,
    ) -> T {
        let parts = |statement: &Statement| statement.actions.len().saturating_mul(statement.resources.len());
        let parts = statements.into_iter().map(parts).fold(0, usize::saturating_add);
        if parts.saturating_mul(member.most_entries()) <= LIGHT {
            return weigh();
        }
        // Never closed; were it, nothing would be bounded, and all of it decided all the same.
        let _permit = self.weighing.acquire().await.ok();
        block_in_place(weigh)
    }

    fn unit(&self, actor: &Actor) -> UnitOfWork {
        UnitOfWork::new(self.pool.clone(), Uuid::now_v7(), actor.metadata())
    }

    /// Appends the unit; none where it conflicted and must be decided again.
    async fn append(&self, unit: &UnitOfWork) -> Result<Option<Appended>, CommandError> {
        match self.appender.append(unit.request()).await? {
            AppendOutcome::Appended { last } => Ok(Some(Appended { last })),
            AppendOutcome::Conflict | AppendOutcome::Repeated | AppendOutcome::KeyUsed => Ok(None),
            AppendOutcome::NameTaken => Err(CommandError::NameTaken),
            AppendOutcome::Full => Err(CommandError::TooManyTokens),
            AppendOutcome::OffsetFenced => Err(CommandError::OffsetFenced),
        }
    }

    /// The last position of the log; 0: there is none.
    async fn head(&self) -> Result<i64, CommandError> {
        let head = sqlx::query_scalar("select coalesce(max(position), 0) from events");
        Ok(head.fetch_one(&self.pool).await?)
    }

    /// Where a command stands that had nothing to change.
    async fn position_of<A: cqrs_es::Aggregate>(&self, aggregate_id: &str) -> Result<i64, CommandError> {
        let mut connection = self.pool.acquire().await?;
        Ok(last_position(&mut connection, A::TYPE, aggregate_id).await?)
    }
}

/// How many permissions are weighed at the same time.
fn weighed_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// A unit that stands in the log.
struct Appended {
    /// Where its last event does, if it had one.
    last: Option<Recorded>,
}

/// Counts the attempts at one command.
#[derive(Default)]
struct Attempts {
    made: u32,
}

impl Attempts {
    /// Waits a little before the next attempt.
    ///
    /// # Errors
    /// After the last one.
    async fn again(&mut self) -> Result<(), CommandError> {
        self.made = self.made.saturating_add(1);
        if self.made >= MAX_ATTEMPTS {
            return Err(CommandError::Conflict);
        }
        tokio::time::sleep(PAUSE.saturating_mul(self.made)).await;
        Ok(())
    }
}

impl Actor {
    /// As the events say it: `member:<uuid>`, `intake`, `operator`, `reactor`.
    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        match self {
            Self::Member(caller) => {
                metadata.insert("actor".to_owned(), format!("member:{}", caller.member_id));
                metadata.insert("requestId".to_owned(), caller.request_id.clone());
            }
            Self::Intake => {
                metadata.insert("actor".to_owned(), "intake".to_owned());
            }
            Self::Operator => {
                metadata.insert("actor".to_owned(), "operator".to_owned());
            }
            Self::Reactor => {
                metadata.insert("actor".to_owned(), "reactor".to_owned());
            }
        }
        metadata
    }
}
