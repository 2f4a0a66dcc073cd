//! What the log can be asked to append: events of several streams, guards on the streams that were read, and the side
//! rows that must move with them. All or nothing.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::ids::{MemberId, OrganizationId, TokenId};
use serde::Serialize;
use uuid::Uuid;

/// One stream of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The aggregate's type.
    pub aggregate_type: &'static str,
    /// The aggregate's id.
    pub aggregate_id: Arc<str>,
}

/// Events to append, and what they rest on.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// Names this command for ever: resubmitted after an unknown outcome, it is not appended twice.
    pub command_id: Uuid,
    /// Every stream that was read, with the last sequence seen in it (0: none). A stream without a new event is a guard.
    pub streams: Vec<(Stream, i64)>,
    /// In this order, to streams named above, their sequences going on from there.
    pub events: Vec<NewEvent>,
    /// Keys that may be used only once.
    pub inbox: Vec<InboxKey>,
    /// Names taken and freed.
    pub names: Vec<NameChange>,
    /// The intake's offset, moved with the events.
    pub offset: Option<OffsetMove>,
    /// Messages set aside, and what becomes of those that were.
    pub parked: Vec<ParkedChange>,
    /// Names and addresses of members.
    pub profiles: Vec<Profile>,
    /// What its caller named it by.
    pub idempotency: Option<IdempotencyEntry>,
    /// Commands that were handed to the same appender before this one, which was decided on what they would leave: it conflicts
    /// unless each of them stands.
    pub rests_on: Vec<Uuid>,
}

impl AppendRequest {
    /// The streams that its events go to.
    pub(super) fn written(&self) -> HashSet<&Stream> {
        self.events.iter().map(|event| &event.stream).collect()
    }
}

/// An event that has no position yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Of which stream.
    pub stream: Stream,
    /// Its place in the stream, from 1.
    pub sequence: i64,
    /// As `access_token.created`.
    pub event_type: String,
    /// Of its shape.
    pub event_version: String,
    /// In which organization it happened.
    pub organization_id: OrganizationId,
    /// JSON, in the one form that is stored and hashed.
    pub payload: String,
    /// JSON: who, from which request.
    pub metadata: Arc<str>,
}

impl NewEvent {
    /// What the chain covers of it before its time, as `contents_before_time` of the migrations has it: stream, sequence,
    /// type, version, payload and metadata, each after its length as four bytes.
    pub(super) fn hashed_contents(&self) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        let fields = [
            self.stream.aggregate_type.as_bytes(),
            self.stream.aggregate_id.as_bytes(),
            &sequence,
            self.event_type.as_bytes(),
            self.event_version.as_bytes(),
            self.payload.as_bytes(),
            self.metadata.as_bytes(),
        ];
        let length = fields.iter().map(|field| field.len().saturating_add(4)).sum();
        let mut contents = Vec::with_capacity(length);
        for field in fields {
            // No field of PostgreSQL's is longer than 1 GiB.
            let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
            contents.extend_from_slice(&length.to_be_bytes());
            contents.extend_from_slice(field);
        }
        contents
    }
}

/// A key that may be used only once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboxKey {
    /// Who hands out such keys.
    pub source: String,
    /// The key.
    pub key: String,
}

/// A token's name, taken or freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameChange {
    /// Taken, or else freed.
    pub reserve: bool,
    /// Names are unique in here.
    pub organization_id: OrganizationId,
    /// The name without regard to case.
    pub name_key: String,
    /// Whose name.
    pub token_id: TokenId,
    /// The token is a new one, for which its organization must have room.
    pub room: Option<Room>,
}

/// How many tokens an organization may have, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// It may have so many, and not one more.
    pub at_most: u32,
    /// It has so many.
    pub counted: TokenCount,
}

/// The tokens of an organization that are not removed, when the log went up to a position. Each event of the organization
/// since then may be one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// How many.
    pub tokens: i64,
    /// The position.
    pub as_of: i64,
}

/// An idempotency key, and what it stands for from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdempotencyEntry {
    /// Whose key: a key is known to the organization, the caller and the route that used it, and to no other.
    #[serde(flatten)]
    pub key: UsedKey,
    /// SHA-256 of the request's body, hexadecimal.
    pub body_digest: String,
    /// The token that came of it.
    pub token_id: TokenId,
}

/// An idempotency key in the place where it was used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UsedKey {
    /// Whose member used it.
    pub organization_id: OrganizationId,
    /// Who used it.
    pub member_id: MemberId,
    /// For what, as `/access-tokens`.
    pub route: String,
    /// The key.
    pub key: String,
}

/// A partition of a topic of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Partition {
    /// Names the cluster for ever.
    pub cluster_id: String,
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

/// The intake's offset in one partition, moved by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffsetMove {
    /// Where.
    #[serde(flatten)]
    pub partition: Partition,
    /// What must be stored now; none: nothing yet.
    pub expected: Option<i64>,
    /// The next offset to read.
    pub next_offset: i64,
}

/// What changes of the parked messages. What it says of those that are there must be so when it is appended, or else the
/// request is decided again.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum ParkedChange {
    /// One more.
    Park(Box<ParkedMessage>),
    /// One that is there is there no more.
    Gone {
        /// Which.
        id: Uuid,
    },
    /// One that is there stays.
    Stays {
        /// Which.
        id: Uuid,
        /// Why, a code.
        reason: String,
        /// Its CloudEvents type, if it has one.
        event_type: Option<String>,
    },
    /// Nothing but what is gone by this request holds a member.
    Release {
        /// Whose.
        organization_id: OrganizationId,
        /// Who.
        member_id: MemberId,
    },
    /// Something else holds a member.
    Held {
        /// Whose.
        organization_id: OrganizationId,
        /// Who.
        member_id: MemberId,
    },
}

/// A message that could not be used, as it came.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParkedMessage {
    /// Names it for the operator.
    pub id: Uuid,
    /// Whose member it is about, if that can be told.
    pub organization_id: Option<OrganizationId>,
    /// Whom it is about, if that can be told.
    pub member_id: Option<MemberId>,
    /// Everybody it may be about: all of them are held by it.
    pub members: Vec<(OrganizationId, MemberId)>,
    /// Its key is in the inbox: when it is taken it is no repetition of itself.
    pub holds_key: bool,
    /// Its CloudEvents type, if it has one.
    pub event_type: Option<String>,
    /// Why it could not be used, a code.
    pub reason: String,
    /// Where it came from; none: over HTTP.
    #[serde(flatten)]
    pub partition: Option<Partition>,
    /// Its offset there.
    pub message_offset: Option<i64>,
    /// The message's key, hexadecimal.
    pub message_key: Option<String>,
    /// The message's headers.
    pub headers: serde_json::Value,
    /// The message's body, hexadecimal; none: it had none.
    pub payload: Option<String>,
}

/// What people may read of a member; erasable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Whose member.
    pub organization_id: OrganizationId,
    /// Who.
    pub member_id: MemberId,
    /// As people call them.
    pub name: String,
    /// Where to write to them.
    pub email: String,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It stands; `last` is where its last event does, none where it had no events.
    Appended {
        /// Its last event.
        last: Option<Recorded>,
    },
    /// A stream that was read has moved on, a command that it rests on does not stand, or there may be no room any more for
    /// one more token: load and decide again.
    Conflict,
    /// An inbox key was used before by another command, and nothing else speaks against it.
    Repeated,
    /// The idempotency key was used before by another command.
    KeyUsed,
    /// The name belongs to another token.
    NameTaken,
    /// The organization had as many tokens as it may have when they were counted.
    Full,
    /// Somebody else moved the offset: this reader is no longer the partition's.
    OffsetFenced,
}

/// Where an event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its position.
    pub position: i64,
    /// When it was appended, by the database's clock.
    pub at: DateTime<Utc>,
}
