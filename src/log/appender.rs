//! The only writer of the log: one task per node that takes every request waiting for it and appends them in one
//! statement. No timer: while a batch commits, the next one gathers. Never decides anything about a request itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::OrganizationId;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::request::{AppendOutcome, AppendRequest, InboxKey, Partition, Recorded, Stream, UsedKey};
use super::written::{Hand, Written, hand_over};
use crate::database::{OwnConnection, STATEMENT_LIMIT, within};
use crate::lately::Lately;

/// Requests in one batch.
const MAX_BATCH: usize = 256;
/// Requests waiting for a batch; more wait outside.
const QUEUE: usize = 1024;
/// Commands of one generation that are known to stand: who rests on one is handed in while that is on its way, or soon after.
const MAX_APPENDED: usize = 4096;
/// How long a batch is tried while the database is out of reach.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Why it isn't known to stand in the log.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
    /// The database did not answer in time. It may stand: the same command id can be asked again.
    #[error("the log is out of reach")]
    Unavailable,
    /// The database refused the request itself. It does not stand.
    #[error("the log refused the request")]
    Refused(#[source] Arc<sqlx::Error>),
}

/// Where requests are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
    head: watch::Sender<i64>,
}

/// The other end: run it once.
#[derive(Debug)]
pub struct AppenderTask {
    connection: OwnConnection,
    queue: mpsc::Receiver<Waiting>,
    head: watch::Sender<i64>,
    /// To whoever reads the log, if anybody does.
    written: Option<Hand>,
    /// Commands that stand in the log. Who rests on one that is not among them conflicts, and is decided again.
    appended: Lately<Uuid>,
}

#[derive(Debug)]
struct Waiting {
    request: AppendRequest,
    answer: oneshot::Sender<Result<AppendOutcome, AppendError>>,
}

impl Appender {
    /// Both ends of the queue.
    #[must_use]
    pub fn new(pool: PgPool) -> (Self, AppenderTask) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let head = watch::Sender::new(0);
        let appender = Self {
            queue: sender,
            head: head.clone(),
        };
        let appended = Lately::in_generations_of(MAX_APPENDED);
        let task = AppenderTask {
            connection: OwnConnection::of(pool),
            queue,
            head,
            written: None,
            appended,
        };
        (appender, task)
    }

    /// Appends a request, with whatever else is waiting.
    ///
    /// # Errors
    /// [`AppendError`] says whether it may stand all the same.
    pub async fn append(&self, request: AppendRequest) -> Result<AppendOutcome, AppendError> {
        let (answer, outcome) = oneshot::channel();
        self.queue
            .send(Waiting { request, answer })
            .await
            .map_err(|_| AppendError::Unavailable)?;
        outcome.await.map_err(|_| AppendError::Unavailable)?
    }

    /// The last position this node has appended; 0 when none, or none to the log that is there. Wakes whoever follows it.
    #[must_use]
    pub fn head(&self) -> watch::Sender<i64> {
        self.head.clone()
    }
}

impl AppenderTask {
    /// What is appended from now on, for the one that reads the log.
    #[must_use]
    pub fn written(&mut self) -> mpsc::Receiver<Written> {
        let (hand, written) = hand_over();
        self.written = Some(hand);
        written
    }

    /// Appends until it is told to stop and nothing is waiting any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut held_back = VecDeque::new();
        loop {
            if held_back.is_empty() {
                let next = tokio::select! {
                    next = self.queue.recv() => next,
                    () = stop.cancelled() => self.queue.try_recv().ok(),
                };
                match next {
                    Some(waiting) => held_back.push_back(waiting),
                    None => return,
                }
            }
            let batch = self.gather(&mut held_back);
            self.append_batch(batch).await;
        }
    }

    /// Everything that is waiting, but at most one request per stream, name, key and partition, and none with one that it
    /// rests on; the others are held back for the next batch, in their order.
    fn gather(&mut self, held_back: &mut VecDeque<Waiting>) -> Vec<Waiting> {
        while held_back.len() < MAX_BATCH {
            match self.queue.try_recv() {
                Ok(waiting) => held_back.push_back(waiting),
                Err(_) => break,
            }
        }
        let are_free = are_free(held_back.iter().map(|waiting| &waiting.request));
        let mut batch = Vec::new();
        let mut rest = VecDeque::new();
        for (waiting, is_free) in held_back.drain(..).zip(are_free) {
            if is_free {
                batch.push(waiting);
            } else {
                rest.push_back(waiting);
            }
        }
        *held_back = rest;
        batch
    }

    async fn append_batch(&mut self, batch: Vec<Waiting>) {
        let (batch, in_vain): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|waiting| waiting.request.rests_on.iter().all(|it| self.appended.has(it)));
        for Waiting { answer, .. } in in_vain {
            let _ = answer.send(Ok(AppendOutcome::Conflict));
        }
        if batch.is_empty() {
            return;
        }
        let (requests, answers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.request, waiting.answer))
            .unzip();
        let give_up = Instant::now() + PATIENCE;
        match self.append_patiently(&requests, give_up).await {
            Ok(outcome) => {
                for (answer, outcome) in answers.into_iter().zip(self.publish(requests, outcome)) {
                    // Whoever asked may have gone; the event stands all the same.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(AppendError::Refused(error)) if requests.len() > 1 => {
                tracing::error!(%error, requests = requests.len(), "a batch was refused, its requests are tried alone");
                for (request, answer) in requests.into_iter().zip(answers) {
                    let outcome = self.append_alone(request, give_up).await;
                    let _ = answer.send(outcome);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    async fn append_alone(
        &mut self,
        request: AppendRequest,
        give_up: Instant,
    ) -> Result<AppendOutcome, AppendError> {
        let answer = self
            .append_patiently(std::slice::from_ref(&request), give_up)
            .await?;
        let outcomes = self.publish(vec![request], answer);
        outcomes.first().copied().ok_or(AppendError::Unavailable)
    }

    /// Says what stands in the log now, to whoever follows it.
    fn publish(&mut self, requests: Vec<AppendRequest>, answer: Answer) -> Vec<AppendOutcome> {
        let Answer { outcomes, stretch } = answer;
        for (request, outcome) in requests.iter().zip(&outcomes) {
            if matches!(outcome, AppendOutcome::Appended { .. }) {
                self.appended.add(request.command_id);
            }
        }
        if let (Some(hand), Some(stretch)) = (&self.written, stretch) {
            // First: whoever is woken must find it.
            hand.over(stretch.written(requests));
        }
        let last = outcomes.iter().filter_map(|outcome| match outcome {
            AppendOutcome::Appended { last } => last.map(|last| last.position),
            _ => None,
        });
        if let Some(last) = last.max() {
            self.head.send_if_modified(|head| {
                let moved = last > *head;
                *head = last.max(*head);
                moved
            });
        }
        outcomes
    }

    async fn append(&mut self, requests: &[AppendRequest]) -> Result<Answer, sqlx::Error> {
        let mut connection = self.connection.take().await?;
        let answer = append_to_log(&mut connection, requests).await?;
        self.connection.keep(connection);
        Ok(answer)
    }

    /// Resubmits while the database is out of reach: what did commit before the connection broke comes back as a
    /// duplicate of the same command, with its positions.
    async fn append_patiently(
        &mut self,
        requests: &[AppendRequest],
        give_up: Instant,
    ) -> Result<Answer, AppendError> {
        loop {
            match within(STATEMENT_LIMIT, self.append(requests)).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !may_pass(&error) => return Err(AppendError::Refused(Arc::new(error))),
                Err(error) if Instant::now() >= give_up => {
                    tracing::error!(%error, requests = requests.len(), "the log is out of reach");
                    return Err(AppendError::Unavailable);
                }
                Err(error) => {
                    tracing::warn!(%error, requests = requests.len(), "the log is out of reach, trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Which of the requests can be in one batch: all that touch nothing that one before them does.
fn are_free<'a>(requests: impl ExactSizeIterator<Item = &'a AppendRequest>) -> Vec<bool> {
    if requests.len() == 1 {
        return vec![true];
    }
    let mut claimed = HashMap::new();
    requests
        .map(|request| {
            let claims = claims(request);
            let is_free = claims
                .iter()
                .all(|(claim, using)| claimed.get(claim).is_none_or(|by| using.goes_with(*by)));
            // Also where it must wait: a request behind it on the same stream must not overtake it.
            for (claim, using) in claims {
                let by = claimed.entry(claim).or_insert(using);
                *by = by.and(using);
            }
            is_free
        })
        .collect()
}

#[derive(PartialEq, Eq, Hash)]
enum Claim<'a> {
    Stream(&'a Stream),
    Name(OrganizationId, &'a str),
    Inbox(&'a InboxKey),
    Partition(&'a Partition),
    Key(&'a UsedKey),
    Command(Uuid),
}

/// How a request uses what it claims. Many may guard one stream, or rest on one command; who writes it is alone with it, since
/// the checks see what was there before the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Using {
    Guard,
    Write,
}

impl Using {
    fn goes_with(self, other: Self) -> bool {
        self == Self::Guard && other == Self::Guard
    }

    fn and(self, other: Self) -> Self {
        if self.goes_with(other) {
            Self::Guard
        } else {
            Self::Write
        }
    }
}

/// What other requests of the batch may not touch, or only guard.
fn claims(request: &AppendRequest) -> Vec<(Claim<'_>, Using)> {
    let written = request.written();
    let streams = request.streams.iter().map(|(stream, _)| {
        let using = if written.contains(stream) {
            Using::Write
        } else {
            Using::Guard
        };
        (Claim::Stream(stream), using)
    });
    let names = request
        .names
        .iter()
        .map(|name| Claim::Name(name.organization_id, &name.name_key));
    let inbox = request.inbox.iter().map(Claim::Inbox);
    let partition = request
        .offset
        .iter()
        .map(|offset| Claim::Partition(&offset.partition));
    let key = request.idempotency.iter().map(|entry| Claim::Key(&entry.key));
    let exclusive = names
        .chain(inbox)
        .chain(partition)
        .chain(key)
        .map(|claim| (claim, Using::Write));
    let rests_on = request
        .rests_on
        .iter()
        .map(|command_id| (Claim::Command(*command_id), Using::Guard));
    let itself = (Claim::Command(request.command_id), Using::Write);
    streams.chain(exclusive).chain(rests_on).chain([itself]).collect()
}

/// A broken connection, a server that starts or stops, a lock that took too long: things that pass.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let class = code.get(..2).unwrap_or_default();
            // connection, resources, operator intervention, system error, serialization and locks
            matches!(class, "08" | "53" | "57" | "58" | "40" | "55") || code == "25006"
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// What the database says to a batch.
struct Answer {
    /// Request by request.
    outcomes: Vec<AppendOutcome>,
    /// What it has added to the log by it, if anything.
    stretch: Option<Stretch>,
}

/// Where the events of a batch stand.
struct Stretch {
    first_position: i64,
    recorded_at: DateTime<Utc>,
    hash_before: Option<Vec<u8>>,
    hash: Vec<u8>,
    /// Which requests' events they are.
    is_of: Vec<bool>,
}

impl Stretch {
    fn of(rows: &[PgRow]) -> Result<Option<Self>, sqlx::Error> {
        // One that was appended before, or has no events, has no part in it.
        let is_of = |row: &PgRow| {
            let is_appended = row.try_get::<&str, _>("outcome")? == "appended";
            let first_position: Option<i64> = row.try_get("first_position")?;
            Ok(is_appended && first_position.is_some())
        };
        let is_of: Vec<bool> = rows.iter().map(is_of).collect::<Result<_, sqlx::Error>>()?;
        // The requests' events stand in the order of the requests.
        let Some((first, _)) = rows.iter().zip(&is_of).find(|(_, is_of)| **is_of) else {
            return Ok(None);
        };
        Ok(Some(Self {
            first_position: first.try_get("first_position")?,
            recorded_at: first.try_get("recorded_at")?,
            hash_before: first.try_get("hash_before")?,
            hash: first.try_get("hash")?,
            is_of,
        }))
    }

    fn written(self, requests: Vec<AppendRequest>) -> Written {
        let ours = requests.into_iter().zip(self.is_of);
        let ours = ours.filter_map(|(request, is_of)| is_of.then_some(request.events));
        Written {
            first_position: self.first_position,
            recorded_at: self.recorded_at,
            events: ours.flatten().collect(),
            hash_before: self.hash_before,
            hash: self.hash,
        }
    }
}

async fn append_to_log(
    connection: &mut PgConnection,
    requests: &[AppendRequest],
) -> Result<Answer, sqlx::Error> {
    let columns = Columns::of(requests);
    let rows = sqlx::query(
        "select outcome, first_position, last_position, recorded_at, hash_before, hash from append_to_log(
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, '[]',
            $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)
         order by request",
    )
    .bind(columns.command_ids)
    .bind(columns.stream_requests)
    .bind(columns.stream_types)
    .bind(columns.stream_ids)
    .bind(columns.stream_sequences)
    .bind(columns.event_requests)
    .bind(columns.event_aggregate_types)
    .bind(columns.event_aggregate_ids)
    .bind(columns.event_sequences)
    .bind(columns.event_types)
    .bind(columns.event_versions)
    .bind(columns.event_organizations)
    .bind(columns.event_payloads)
    .bind(columns.event_metadata)
    .bind(columns.inbox_requests)
    .bind(columns.inbox_sources)
    .bind(columns.inbox_keys)
    .bind(Value::Array(columns.offsets))
    .bind(Value::Array(columns.parked))
    .bind(Value::Array(columns.profiles))
    .bind(Value::Array(columns.idempotency))
    .bind(columns.event_contents)
    .bind(columns.stream_writes)
    .bind(columns.name_requests)
    .bind(columns.name_reserves)
    .bind(columns.name_organizations)
    .bind(columns.name_keys)
    .bind(columns.name_tokens)
    .bind(columns.name_at_most)
    .bind(columns.name_counts)
    .bind(columns.name_counted_at)
    .fetch_all(connection)
    .await?;
    Ok(Answer {
        outcomes: rows.iter().map(outcome).collect::<Result<_, _>>()?,
        stretch: Stretch::of(&rows)?,
    })
}

fn outcome(row: &PgRow) -> Result<AppendOutcome, sqlx::Error> {
    match row.try_get("outcome")? {
        "appended" | "duplicate" => {
            let position: Option<i64> = row.try_get("last_position")?;
            let at: Option<DateTime<Utc>> = row.try_get("recorded_at")?;
            let last = position.zip(at).map(|(position, at)| Recorded { position, at });
            Ok(AppendOutcome::Appended { last })
        }
        "repeated" => Ok(AppendOutcome::Repeated),
        "key_used" => Ok(AppendOutcome::KeyUsed),
        "fenced" => Ok(AppendOutcome::OffsetFenced),
        "conflict" => Ok(AppendOutcome::Conflict),
        "name_taken" => Ok(AppendOutcome::NameTaken),
        "full" => Ok(AppendOutcome::Full),
        other => Err(sqlx::Error::Decode(
            format!("append_to_log answered {other}").into(),
        )),
    }
}

/// The batch as the function's parameters: column by column, each row naming its request by number from 1.
#[derive(Default)]
struct Columns<'a> {
    command_ids: Vec<Uuid>,
    stream_requests: Vec<i32>,
    stream_types: Vec<&'a str>,
    stream_ids: Vec<&'a str>,
    stream_sequences: Vec<i64>,
    stream_writes: Vec<bool>,
    event_requests: Vec<i32>,
    event_aggregate_types: Vec<&'a str>,
    event_aggregate_ids: Vec<&'a str>,
    event_sequences: Vec<i64>,
    event_types: Vec<&'a str>,
    event_versions: Vec<&'a str>,
    event_organizations: Vec<Uuid>,
    event_payloads: Vec<&'a str>,
    event_metadata: Vec<&'a str>,
    event_contents: Vec<Vec<u8>>,
    inbox_requests: Vec<i32>,
    inbox_sources: Vec<&'a str>,
    inbox_keys: Vec<&'a str>,
    name_requests: Vec<i32>,
    name_reserves: Vec<bool>,
    name_organizations: Vec<Uuid>,
    name_keys: Vec<&'a str>,
    name_tokens: Vec<Uuid>,
    name_at_most: Vec<Option<i64>>,
    name_counts: Vec<Option<i64>>,
    name_counted_at: Vec<Option<i64>>,
    offsets: Vec<Value>,
    parked: Vec<Value>,
    profiles: Vec<Value>,
    idempotency: Vec<Value>,
}

impl<'a> Columns<'a> {
    fn of(requests: &'a [AppendRequest]) -> Self {
        let mut columns = Self::default();
        for (number, request) in (1..).zip(requests) {
            columns.add(number, request);
        }
        columns
    }

    fn add(&mut self, number: i32, request: &'a AppendRequest) {
        self.command_ids.push(request.command_id);
        let written = request.written();
        for (stream, sequence) in &request.streams {
            self.stream_writes.push(written.contains(stream));
            self.stream_requests.push(number);
            self.stream_types.push(stream.aggregate_type);
            self.stream_ids.push(&stream.aggregate_id);
            self.stream_sequences.push(*sequence);
        }
        for event in &request.events {
            self.event_requests.push(number);
            self.event_aggregate_types.push(event.stream.aggregate_type);
            self.event_aggregate_ids.push(&event.stream.aggregate_id);
            self.event_sequences.push(event.sequence);
            self.event_types.push(&event.event_type);
            self.event_versions.push(&event.event_version);
            self.event_organizations.push(event.organization_id.as_uuid());
            self.event_payloads.push(&event.payload);
            self.event_metadata.push(&event.metadata);
            self.event_contents.push(event.hashed_contents());
        }
        for key in &request.inbox {
            self.inbox_requests.push(number);
            self.inbox_sources.push(&key.source);
            self.inbox_keys.push(&key.key);
        }
        for name in &request.names {
            self.name_requests.push(number);
            self.name_reserves.push(name.reserve);
            self.name_organizations.push(name.organization_id.as_uuid());
            self.name_keys.push(&name.name_key);
            self.name_tokens.push(name.token_id.as_uuid());
            self.name_at_most.push(name.room.map(|room| room.at_most.into()));
            self.name_counts.push(name.room.map(|room| room.counted.tokens));
            self.name_counted_at
                .push(name.room.map(|room| room.counted.as_of));
        }
        self.offsets
            .extend(request.offset.iter().map(|offset| side_row(number, offset)));
        self.parked
            .extend(request.parked.iter().map(|parked| side_row(number, parked)));
        self.profiles
            .extend(request.profiles.iter().map(|profile| side_row(number, profile)));
        self.idempotency
            .extend(request.idempotency.iter().map(|entry| side_row(number, entry)));
    }
}

fn side_row(number: i32, row: &impl serde::Serialize) -> Value {
    match serde_json::to_value(row) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("request".to_owned(), json!(number));
            Value::Object(fields)
        }
        // Not reached: every row above is a struct of strings and numbers. A row of nulls is refused by the tables.
        Ok(_) | Err(_) => json!({ "request": number }),
    }
}
