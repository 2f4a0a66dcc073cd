//! One command's view of the log: every stream it loads becomes a guard, every event an aggregate writes is staged, and
//! all of it becomes one append request. This is the seam to cqrs-es: it stands where `PostgresEventRepository` would,
//! wraps it for the reads, and keeps `persist` from committing on its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cqrs_es::persist::{
    PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayStream, SerializedEvent,
    SerializedSnapshot,
};
use cqrs_es::{Aggregate, AggregateContext, AggregateError, CqrsFramework, EventStore};
use domain::ids::OrganizationId;
use postgres_es::PostgresEventRepository;
use serde_json::Value;
use sqlx::{PgPool, Row};
use thiserror::Error;
use uuid::Uuid;

use super::request::{
    AppendRequest, IdempotencyEntry, InboxKey, NameChange, NewEvent, OffsetMove, ParkedMessage, Profile,
    Stream,
};

/// Why a unit could not load or stage.
#[derive(Debug, Error)]
pub enum UnitError {
    /// The log could not be read.
    #[error("the log can't be read")]
    Read(#[from] sqlx::Error),
    /// A stream holds what this binary can't read.
    #[error("a stream can't be loaded: {0}")]
    Load(String),
    /// An event that does not say in which organization it happened.
    #[error("an event can't be staged: {0}")]
    Stage(String),
}

/// A command being carried out. Clones share what was loaded and staged.
#[derive(Clone)]
pub struct UnitOfWork {
    pool: PgPool,
    reads: Arc<PostgresEventRepository>,
    staged: Arc<Mutex<Staged>>,
}

struct Staged {
    command_id: Uuid,
    metadata: HashMap<String, String>,
    streams: BTreeMap<Stream, LoadedStream>,
    events: Vec<NewEvent>,
    inbox: Vec<InboxKey>,
    names: Vec<NameChange>,
    offset: Option<OffsetMove>,
    parked: Vec<ParkedMessage>,
    profiles: Vec<Profile>,
    idempotency: Option<IdempotencyEntry>,
}

#[derive(Default)]
struct LoadedStream {
    /// The last sequence in the log, 0 when none: what the append checks.
    sequence: i64,
    /// What is in the log and what was staged since, as the aggregate would load it.
    events: Vec<SerializedEvent>,
}

impl UnitOfWork {
    /// A new unit for one command. The metadata (who, from which request) goes with each of its events.
    #[must_use]
    pub fn new(pool: PgPool, command_id: Uuid, metadata: HashMap<String, String>) -> Self {
        let staged = Staged {
            command_id,
            metadata,
            streams: BTreeMap::new(),
            events: Vec::new(),
            inbox: Vec::new(),
            names: Vec::new(),
            offset: None,
            parked: Vec::new(),
            profiles: Vec::new(),
            idempotency: None,
        };
        let reads = Arc::new(PostgresEventRepository::new(pool.clone()));
        Self {
            pool,
            reads,
            staged: Arc::new(Mutex::new(staged)),
        }
    }

    /// Reads many streams of one aggregate type at once, so that loading them later costs nothing.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn preload<A: Aggregate>(&self, aggregate_ids: &[String]) -> Result<(), UnitError> {
        let rows = sqlx::query(
            "select aggregate_id, sequence, event_type, event_version, payload, metadata
             from events
             where aggregate_type = $1 and aggregate_id = any($2)
             order by aggregate_id, sequence",
        )
        .bind(A::TYPE)
        .bind(aggregate_ids)
        .fetch_all(&self.pool)
        .await?;
        let mut streams: HashMap<String, Vec<SerializedEvent>> =
            aggregate_ids.iter().map(|id| (id.clone(), Vec::new())).collect();
        for row in rows {
            let aggregate_id: String = row.try_get("aggregate_id")?;
            let sequence: i64 = row.try_get("sequence")?;
            let event = SerializedEvent::new(
                aggregate_id.clone(),
                usize::try_from(sequence).map_err(|error| UnitError::Load(error.to_string()))?,
                A::TYPE.to_owned(),
                row.try_get("event_type")?,
                row.try_get("event_version")?,
                row.try_get("payload")?,
                row.try_get("metadata")?,
            );
            streams.entry(aggregate_id).or_default().push(event);
        }
        let mut staged = self.staged();
        for (aggregate_id, events) in streams {
            staged.loaded(stream::<A>(&aggregate_id), events);
        }
        Ok(())
    }

    /// Rests the unit on a stream that was folded elsewhere up to this sequence (0: there is none yet): a guard, as if it had
    /// been loaded. Its events are not here, so it can't be loaded any more, only begun.
    pub fn rest_on<A: Aggregate>(&self, aggregate_id: &str, sequence: i64) {
        self.staged()
            .streams
            .entry(stream::<A>(aggregate_id))
            .or_insert(LoadedStream {
                sequence,
                events: Vec::new(),
            });
    }

    /// The aggregate as its stream, and what this unit has staged, gives it. From now on its stream is a guard.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn load<A: Aggregate + Clone>(&self, aggregate_id: &str) -> Result<A, UnitError> {
        let store = PersistedEventStore::<Self, A>::new_event_store(self.clone());
        let mut context = store.load_aggregate(aggregate_id).await.map_err(unit_error)?;
        Ok(context.aggregate().clone())
    }

    /// Lets the aggregate decide a command, and stages what it decides.
    ///
    /// # Errors
    /// The outer where the log can't be read, the inner where the aggregate refuses.
    pub async fn execute<A: Aggregate>(
        &self,
        aggregate_id: &str,
        command: A::Command,
    ) -> Result<Result<(), A::Error>, UnitError>
    where
        A::Services: Default,
    {
        let store = PersistedEventStore::<Self, A>::new_event_store(self.clone());
        let framework = CqrsFramework::new(store, Vec::new(), A::Services::default());
        let metadata = self.staged().metadata.clone();
        match framework
            .execute_with_metadata(aggregate_id, command, metadata)
            .await
        {
            Ok(()) => Ok(Ok(())),
            Err(AggregateError::UserError(refusal)) => Ok(Err(refusal)),
            Err(error) => Err(unit_error(error)),
        }
    }

    /// How many events are staged.
    #[must_use]
    pub fn staged_events(&self) -> usize {
        self.staged().events.len()
    }

    /// A key that may be used only once.
    pub fn use_key(&self, key: InboxKey) {
        self.staged().inbox.push(key);
    }

    /// A name taken or freed.
    pub fn change_name(&self, name: NameChange) {
        self.staged().names.push(name);
    }

    /// What its caller named the command by.
    pub fn remember(&self, key: IdempotencyEntry) {
        self.staged().idempotency = Some(key);
    }

    /// The intake's offset, moved with the events.
    pub fn move_offset(&self, offset: OffsetMove) {
        self.staged().offset = Some(offset);
    }

    /// A message set aside.
    pub fn park(&self, message: ParkedMessage) {
        self.staged().parked.push(message);
    }

    /// A member's name and address; the last one counts.
    pub fn write_profile(&self, profile: Profile) {
        let mut staged = self.staged();
        staged.profiles.retain(|known| {
            (known.organization_id, known.member_id) != (profile.organization_id, profile.member_id)
        });
        staged.profiles.push(profile);
    }

    /// Everything read and staged, as one request.
    #[must_use]
    pub fn request(&self) -> AppendRequest {
        let staged = self.staged();
        AppendRequest {
            command_id: staged.command_id,
            streams: staged
                .streams
                .iter()
                .map(|(stream, loaded)| (stream.clone(), loaded.sequence))
                .collect(),
            events: staged.events.clone(),
            inbox: staged.inbox.clone(),
            names: staged.names.clone(),
            offset: staged.offset.clone(),
            parked: staged.parked.clone(),
            profiles: staged.profiles.clone(),
            idempotency: staged.idempotency.clone(),
        }
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    fn loaded(&mut self, stream: Stream, events: Vec<SerializedEvent>) {
        let sequence = events
            .last()
            .and_then(|event| i64::try_from(event.sequence).ok())
            .unwrap_or(0);
        self.streams
            .entry(stream)
            .or_insert(LoadedStream { sequence, events });
    }
}

fn stream<A: Aggregate>(aggregate_id: &str) -> Stream {
    Stream {
        aggregate_type: A::TYPE.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
    }
}

fn unit_error<E: std::error::Error>(error: AggregateError<E>) -> UnitError {
    match error {
        AggregateError::DatabaseConnectionError(error) => {
            UnitError::Read(sqlx::Error::Io(std::io::Error::other(error)))
        }
        // postgres-es has no kind of its own for a pool that timed out or a server that stops; an event that could not be
        // staged comes this way too, and says so itself.
        AggregateError::UnexpectedError(error) => match error.downcast::<UnitError>() {
            Ok(error) => *error,
            Err(error) => UnitError::Read(sqlx::Error::Io(std::io::Error::other(error))),
        },
        AggregateError::UserError(_)
        | AggregateError::AggregateConflict
        | AggregateError::DeserializationError(_) => UnitError::Load(error.to_string()),
    }
}

fn new_event(event: &SerializedEvent) -> Result<NewEvent, UnitError> {
    let stage =
        |what: String| UnitError::Stage(format!("{} of {}: {what}", event.event_type, event.aggregate_id));
    let organization_id = event
        .payload
        .get("organizationId")
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<OrganizationId>().ok())
        .ok_or_else(|| stage("it names no organization".to_owned()))?;
    Ok(NewEvent {
        stream: Stream {
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
        },
        sequence: i64::try_from(event.sequence).map_err(|error| stage(error.to_string()))?,
        event_type: event.event_type.clone(),
        event_version: event.event_version.clone(),
        organization_id,
        payload: event.payload.to_string(),
        metadata: event.metadata.to_string(),
    })
}

impl PersistedEventRepository for UnitOfWork {
    async fn get_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let stream = stream::<A>(aggregate_id);
        if let Some(loaded) = self.staged().streams.get(&stream) {
            if loaded.sequence > 0 && loaded.events.is_empty() {
                return Err(PersistenceError::UnknownError(
                    "a unit that rests on a stream has not its events".into(),
                ));
            }
            return Ok(loaded.events.clone());
        }
        let events = self.reads.get_events::<A>(aggregate_id).await?;
        self.staged().loaded(stream, events.clone());
        Ok(events)
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        _aggregate_id: &str,
        _last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        Err(PersistenceError::UnknownError(
            "a unit of work has no snapshots".into(),
        ))
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        _aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        Err(PersistenceError::UnknownError(
            "a unit of work has no snapshots".into(),
        ))
    }

    /// Stages; the append comes when the whole unit is ready.
    async fn persist<A: Aggregate>(
        &self,
        events: &[SerializedEvent],
        _snapshot_update: Option<(String, Value, usize)>,
    ) -> Result<(), PersistenceError> {
        let mut staged = self.staged();
        for event in events {
            let new = new_event(event).map_err(|error| PersistenceError::UnknownError(error.into()))?;
            staged
                .streams
                .entry(new.stream.clone())
                .or_default()
                .events
                .push(event.clone());
            staged.events.push(new);
        }
        Ok(())
    }

    async fn stream_events<A: Aggregate>(
        &self,
        _aggregate_id: &str,
    ) -> Result<ReplayStream, PersistenceError> {
        Err(PersistenceError::UnknownError(
            "replays read the log by position".into(),
        ))
    }

    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        Err(PersistenceError::UnknownError(
            "replays read the log by position".into(),
        ))
    }
}
