//! One command's view of the log: every stream it loads becomes a guard, every event an aggregate writes is staged, and
//! all of it becomes one append request. This is the seam to cqrs-es: it is the `EventStore` of the framework, reads by
//! `PostgresEventRepository`, and its `commit` commits nothing. Each stream is read and folded once: a poll of the topic may
//! hold hundreds of events of one member.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cqrs_es::persist::{PersistedEventRepository, PersistenceError, SerializedEvent};
use cqrs_es::{
    Aggregate, AggregateContext, AggregateError, CqrsFramework, DomainEvent, EventEnvelope, EventStore,
};
use domain::ids::{MemberId, OrganizationId};
use domain::upcast::upcast;
use postgres_es::PostgresEventRepository;
use serde::Deserialize;
use sqlx::{PgPool, Row};
use thiserror::Error;
use uuid::Uuid;

use super::request::{
    AppendRequest, IdempotencyEntry, InboxKey, NameChange, NewEvent, OffsetMove, ParkedChange, Profile,
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
    staged: Arc<Mutex<Staged>>,
}

struct Staged {
    command_id: Uuid,
    /// JSON, the same for each event.
    metadata: Arc<str>,
    streams: BTreeMap<Stream, LoadedStream>,
    events: Vec<NewEvent>,
    inbox: Vec<InboxKey>,
    names: Vec<NameChange>,
    offset: Option<OffsetMove>,
    parked: Vec<ParkedChange>,
    profiles: BTreeMap<(OrganizationId, MemberId), Profile>,
    idempotency: Option<IdempotencyEntry>,
    rests_on: Vec<Uuid>,
}

/// A stream that was read.
struct LoadedStream {
    /// The last sequence in the log, 0 when none: what the append checks.
    sequence: i64,
    /// The last one with what is staged.
    staged: i64,
    state: State,
}

/// What a stream comes to.
enum State {
    /// It was folded elsewhere, and its events are not here.
    Elsewhere,
    /// Its events, as they were read.
    Read(Vec<SerializedEvent>),
    /// The aggregate.
    Folded(Box<dyn Any + Send>),
}

/// An aggregate that is lent to the framework; it comes back when this is dropped.
pub struct Lent<A: Aggregate + 'static> {
    unit: UnitOfWork,
    stream: Stream,
    aggregate: A,
}

impl<A: Aggregate + 'static> AggregateContext<A> for Lent<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A: Aggregate + 'static> Drop for Lent<A> {
    fn drop(&mut self) {
        let aggregate = std::mem::take(&mut self.aggregate);
        if let Some(loaded) = self.unit.staged().streams.get_mut(&self.stream) {
            loaded.state = State::Folded(Box::new(aggregate));
        }
    }
}

impl UnitOfWork {
    /// A new unit for one command. The metadata (who, from which request) goes with each of its events.
    #[must_use]
    pub fn new(pool: PgPool, command_id: Uuid, metadata: HashMap<String, String>) -> Self {
        let in_order: BTreeMap<_, _> = metadata.iter().collect();
        let staged = Staged {
            command_id,
            // Not reached: text can always be written.
            metadata: serde_json::to_string(&in_order).map_or_else(|_| "{}".into(), Arc::from),
            streams: BTreeMap::new(),
            events: Vec::new(),
            inbox: Vec::new(),
            names: Vec::new(),
            offset: None,
            parked: Vec::new(),
            profiles: BTreeMap::new(),
            idempotency: None,
            rests_on: Vec::new(),
        };
        Self {
            pool,
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
                staged: sequence,
                state: match sequence {
                    0 => State::Read(Vec::new()),
                    _ => State::Elsewhere,
                },
            });
    }

    /// The same with what the stream comes to, so that it can be loaded.
    pub fn rest_on_known<A: Aggregate + 'static>(&self, aggregate_id: &str, sequence: i64, aggregate: A) {
        self.staged()
            .streams
            .entry(stream::<A>(aggregate_id))
            .or_insert(LoadedStream {
                sequence,
                staged: sequence,
                state: State::Folded(Box::new(aggregate)),
            });
    }

    /// Rests the unit on another, which is on its way to the log: unless that comes to stand, this one conflicts.
    pub fn rest_on_unit(&self, other: &Self) {
        let command_id = other.staged().command_id;
        self.staged().rests_on.push(command_id);
    }

    /// What a stream comes to once all this stands, with the sequence of its last event; none where it was not folded. It is
    /// taken out, for a unit that is appended after this one.
    #[must_use]
    pub fn lend_staged<A: Aggregate + 'static>(&self, aggregate_id: &str) -> Option<(i64, A)> {
        let mut staged = self.staged();
        let loaded = staged.streams.get_mut(&stream::<A>(aggregate_id))?;
        match std::mem::replace(&mut loaded.state, State::Elsewhere) {
            State::Folded(aggregate) => Some((loaded.staged, *aggregate.downcast().ok()?)),
            other => {
                loaded.state = other;
                None
            }
        }
    }

    /// What every stream of this aggregate comes to once all this stands, with the sequence of its last event. They are taken
    /// out: the unit is at its end.
    #[must_use]
    pub fn into_known<A: Aggregate + 'static>(self) -> Vec<(Arc<str>, i64, A)> {
        let mut staged = self.staged();
        let streams = std::mem::take(&mut staged.streams);
        streams
            .into_iter()
            .filter(|(stream, _)| stream.aggregate_type == A::TYPE)
            .filter_map(|(stream, loaded)| match loaded.state {
                State::Folded(aggregate) => {
                    let aggregate = aggregate.downcast::<A>().ok()?;
                    Some((stream.aggregate_id, loaded.staged, *aggregate))
                }
                State::Elsewhere | State::Read(_) => None,
            })
            .collect()
    }

    /// The aggregate as its stream, and what this unit has staged, gives it. From now on its stream is a guard.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn load<A: Aggregate + Clone + 'static>(&self, aggregate_id: &str) -> Result<A, UnitError> {
        self.look::<A, A>(aggregate_id, A::clone).await
    }

    /// The same without a copy of it.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn look<A: Aggregate + 'static, T>(
        &self,
        aggregate_id: &str,
        look: impl FnOnce(&A) -> T,
    ) -> Result<T, UnitError> {
        Ok(look(&self.lend::<A>(aggregate_id).await?.aggregate))
    }

    /// Lets the aggregate decide a command, and stages what it decides.
    ///
    /// # Errors
    /// The outer where the log can't be read, the inner where the aggregate refuses.
    pub async fn execute<A: Aggregate + 'static>(
        &self,
        aggregate_id: &str,
        command: A::Command,
    ) -> Result<Result<(), A::Error>, UnitError>
    where
        A::Services: Default,
    {
        let framework = CqrsFramework::<A, Self>::new(self.clone(), Vec::new(), A::Services::default());
        match framework.execute(aggregate_id, command).await {
            Ok(()) => Ok(Ok(())),
            Err(AggregateError::UserError(refusal)) => Ok(Err(refusal)),
            Err(error) => Err(unit_error(error)),
        }
    }

    /// The aggregate, folded if it was not yet.
    async fn lend<A: Aggregate + 'static>(&self, aggregate_id: &str) -> Result<Lent<A>, UnitError> {
        let stream = stream::<A>(aggregate_id);
        if !self.staged().streams.contains_key(&stream) {
            // Made for the read: it writes all its statements, and most commands read nothing.
            let events = PostgresEventRepository::new(self.pool.clone())
                .get_events::<A>(aggregate_id)
                .await
                .map_err(read_error)?;
            self.staged().loaded(stream.clone(), events);
        }
        let aggregate = self.staged().take::<A>(&stream)?;
        Ok(Lent {
            unit: self.clone(),
            stream,
            aggregate,
        })
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

    /// A message set aside, or what becomes of one that was.
    pub fn change_parked(&self, change: ParkedChange) {
        self.staged().parked.push(change);
    }

    /// A member's name and address; the last one counts.
    pub fn write_profile(&self, profile: Profile) {
        let member = (profile.organization_id, profile.member_id);
        self.staged().profiles.insert(member, profile);
    }

    /// Everything read and staged, as one request; from now on nothing is staged.
    #[must_use]
    pub fn request(&self) -> AppendRequest {
        let mut staged = self.staged();
        AppendRequest {
            command_id: staged.command_id,
            streams: staged
                .streams
                .iter()
                .map(|(stream, loaded)| (stream.clone(), loaded.sequence))
                .collect(),
            events: std::mem::take(&mut staged.events),
            inbox: std::mem::take(&mut staged.inbox),
            names: std::mem::take(&mut staged.names),
            offset: staged.offset.take(),
            parked: std::mem::take(&mut staged.parked),
            profiles: std::mem::take(&mut staged.profiles).into_values().collect(),
            idempotency: staged.idempotency.take(),
            rests_on: std::mem::take(&mut staged.rests_on),
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
        self.streams.entry(stream).or_insert(LoadedStream {
            sequence,
            staged: sequence,
            state: State::Read(events),
        });
    }

    /// Out of its place, until it is put back.
    fn take<A: Aggregate + 'static>(&mut self, stream: &Stream) -> Result<A, UnitError> {
        let elsewhere = || UnitError::Load("a unit that rests on a stream has not its events".to_owned());
        let loaded = self.streams.get_mut(stream).ok_or_else(elsewhere)?;
        match std::mem::replace(&mut loaded.state, State::Elsewhere) {
            State::Elsewhere => Err(elsewhere()),
            State::Read(events) => folded(events),
            State::Folded(aggregate) => match aggregate.downcast::<A>() {
                Ok(aggregate) => Ok(*aggregate),
                Err(_) => Err(UnitError::Load("two aggregates have one type".to_owned())),
            },
        }
    }

    fn stage<A: Aggregate>(&mut self, stream: &Stream, events: &[A::Event]) -> Result<(), UnitError> {
        let metadata = Arc::clone(&self.metadata);
        for event in events {
            let loaded = self.streams.get_mut(stream);
            let loaded = loaded.ok_or_else(|| UnitError::Stage("its stream was not loaded".to_owned()))?;
            loaded.staged = loaded.staged.saturating_add(1);
            let new = new_event(stream, loaded.staged, event, &metadata)?;
            self.events.push(new);
        }
        Ok(())
    }
}

fn folded<A: Aggregate>(events: Vec<SerializedEvent>) -> Result<A, UnitError> {
    let mut aggregate = A::default();
    for event in events {
        let at = format!(
            "{} {} of {}",
            event.event_type, event.sequence, event.aggregate_id
        );
        let unreadable =
            |error: &dyn std::fmt::Display| UnitError::Load(format!("{at} can't be read: {error}"));
        let payload = upcast(&event.event_type, &event.event_version, &event.payload)
            .map_err(|error| unreadable(&error))?;
        let event = A::Event::deserialize(&*payload).map_err(|error| unreadable(&error))?;
        aggregate.apply(event);
    }
    Ok(aggregate)
}

fn stream<A: Aggregate>(aggregate_id: &str) -> Stream {
    Stream {
        aggregate_type: A::TYPE,
        aggregate_id: aggregate_id.into(),
    }
}

fn unit_error<E: std::error::Error>(error: AggregateError<E>) -> UnitError {
    match error {
        AggregateError::UnexpectedError(error) => match error.downcast::<UnitError>() {
            Ok(error) => *error,
            Err(error) => UnitError::Load(error.to_string()),
        },
        AggregateError::UserError(_)
        | AggregateError::AggregateConflict
        | AggregateError::DatabaseConnectionError(_)
        | AggregateError::DeserializationError(_) => UnitError::Load(error.to_string()),
    }
}

fn read_error(error: PersistenceError) -> UnitError {
    // postgres-es has no kind of its own for a pool that timed out or a server that stops.
    UnitError::Read(sqlx::Error::Io(std::io::Error::other(error)))
}

/// Every event says in which organization it happened.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whereabouts {
    organization_id: OrganizationId,
}

fn new_event(
    stream: &Stream,
    sequence: i64,
    event: &impl DomainEvent,
    metadata: &Arc<str>,
) -> Result<NewEvent, UnitError> {
    let event_type = event.event_type();
    let stage = |what: serde_json::Error| {
        UnitError::Stage(format!("{event_type} of {}: {what}", stream.aggregate_id))
    };
    let payload = serde_json::to_string(event).map_err(stage)?;
    let Whereabouts { organization_id } = serde_json::from_str(&payload).map_err(stage)?;
    Ok(NewEvent {
        stream: stream.clone(),
        sequence,
        event_version: event.event_version(),
        organization_id,
        payload,
        metadata: Arc::clone(metadata),
        event_type,
    })
}

impl<A: Aggregate + 'static> EventStore<A> for UnitOfWork {
    type AC = Lent<A>;

    async fn load_events(
        &self,
        _aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let error = UnitError::Load("a unit of work keeps aggregates, not their events".to_owned());
        Err(AggregateError::UnexpectedError(error.into()))
    }

    async fn load_aggregate(&self, aggregate_id: &str) -> Result<Lent<A>, AggregateError<A::Error>> {
        self.lend(aggregate_id)
            .await
            .map_err(|error| AggregateError::UnexpectedError(error.into()))
    }

    /// Stages; the append comes when the whole unit is ready. They were applied when they were decided.
    async fn commit(
        &self,
        events: Vec<A::Event>,
        lent: Lent<A>,
        _metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        self.staged()
            .stage::<A>(&lent.stream, &events)
            .map_err(|error| AggregateError::UnexpectedError(error.into()))?;
        Ok(Vec::new())
    }
}
