//! Takes what the membership topic says. One poll of one partition is one request: its events, the keys of its messages,
//! what had to be parked, and the offset stand together or not at all.

use std::collections::{BTreeSet, HashSet};

use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberChange, MemberCommand, MembershipFact};
use domain::organization::{Organization, OrganizationCommand};
use sqlx::PgPool;
use uuid::Uuid;

use super::counters::{MessageLabels, Outcome};
use super::{Actor, Appended, Attempts, CommandError, Commands};
use crate::log::{InboxKey, OffsetMove, ParkedChange, ParkedMessage, Partition, Profile, UnitOfWork};
use crate::report::Report;

/// A message of the topic, as it came and as it was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its bytes, for parking.
    pub raw: RawMessage,
    /// What it says.
    pub meaning: Result<MembershipEvent, Unusable>,
}

impl Message {
    /// Its CloudEvents type, if it could be read.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        match &self.meaning {
            Ok(event) => Some(&event.event_type),
            Err(unusable) => unusable.event_type.as_deref(),
        }
    }

    /// Everybody it may be about.
    #[must_use]
    pub fn members(&self) -> Vec<(OrganizationId, MemberId)> {
        match &self.meaning {
            Ok(event) => event.member().into_iter().collect(),
            Err(unusable) => unusable.members.clone(),
        }
    }
}

/// A message as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawMessage {
    /// Where it came from; none: over HTTP.
    pub partition: Option<Partition>,
    /// Its offset there.
    pub offset: Option<i64>,
    /// When the broker, or whoever sent it, says that it was sent, in milliseconds since 1970.
    pub sent_at: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers, as text.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub payload: Option<Vec<u8>>,
}

/// A membership event that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct MembershipEvent {
    /// CloudEvents `source` and `id`: what it is known by for ever.
    pub key: InboxKey,
    /// CloudEvents `type`.
    pub event_type: String,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// What is said, and of whom.
    pub about: About,
}

impl MembershipEvent {
    fn member(&self) -> Option<(OrganizationId, MemberId)> {
        match self.about {
            About::Member { member_id, .. } => Some((self.organization_id, member_id)),
            About::Organization => None,
        }
    }
}

/// Whom a membership event is about.
#[derive(Clone, Debug, PartialEq)]
pub enum About {
    /// One member.
    Member {
        /// Who.
        member_id: MemberId,
        /// The producer's version, if it sends one.
        version: Option<i64>,
        /// What has happened.
        fact: MembershipFact,
        /// Name and e-mail address, where the event carries them.
        profile: Option<Profile>,
    },
    /// The organization and everybody in it.
    Organization,
}

/// A message that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What it is known by for ever, where it could be understood: a copy of it is a repetition, also while it is parked.
    pub key: Option<InboxKey>,
    /// A code.
    pub reason: &'static str,
    /// CloudEvents `type`, if it could be read.
    pub event_type: Option<String>,
    /// Everybody it may be about, by its key and by its body: all of them are blocked.
    pub members: Vec<(OrganizationId, MemberId)>,
}

/// One poll of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Poll {
    /// The messages in their order.
    pub messages: Vec<Message>,
    /// How the partition's offset moves with them; none: they came another way.
    pub offset: Option<OffsetMove>,
}

/// Why a message is parked that the log refuses.
pub(super) const UNFIT: &str = "refused_by_the_log";

impl Poll {
    /// By which its messages are known.
    fn keys(&self) -> Vec<&InboxKey> {
        keys(&self.messages).collect()
    }

    /// The earlier and the later half of the messages, each with its part of the way; none of a single one.
    fn halves(&self) -> Option<(Self, Self)> {
        let (first, second) = self.messages.split_at(self.messages.len().div_euclid(2));
        let middle = second.first().filter(|_| !first.is_empty())?.raw.offset;
        let half = |messages: &[Message], expected: Option<i64>, next_offset: Option<i64>| Self {
            messages: messages.to_vec(),
            offset: self.offset.as_ref().map(|offset| OffsetMove {
                partition: offset.partition.clone(),
                expected: expected.or(offset.expected),
                next_offset: next_offset.unwrap_or(offset.next_offset),
            }),
        };
        Some((half(first, None, middle), half(second, middle, None)))
    }

    fn unfit(mut self) -> Self {
        for message in &mut self.messages {
            message.meaning = Err(Unusable {
                key: message.meaning.as_ref().ok().map(|event| event.key.clone()),
                reason: UNFIT,
                event_type: message.event_type().map(ToOwned::to_owned),
                members: message.members(),
            });
        }
        self
    }

    fn bare(mut self) -> Self {
        for message in &mut self.messages {
            message.raw.headers.clear();
            if let Err(unusable) = &mut message.meaning {
                unusable.event_type = None;
                unusable.key = None;
            }
        }
        self
    }
}

/// What became of the messages of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Changed a member.
    pub applied: usize,
    /// Known by their key.
    pub repeated: usize,
    /// Changed nothing: overtaken by what is known.
    pub stale: usize,
    /// Set aside.
    pub parked: usize,
    /// The position of the last event of all this; where nothing had to change, one at or after all that it rests on.
    pub position: i64,
}

impl Taken {
    /// Both together.
    fn and(self, later: Self) -> Self {
        Self {
            applied: self.applied.saturating_add(later.applied),
            repeated: self.repeated.saturating_add(later.repeated),
            stale: self.stale.saturating_add(later.stale),
            parked: self.parked.saturating_add(later.parked),
            position: self.position.max(later.position),
        }
    }
}

/// A poll that was decided, and is not appended yet.
pub struct Staged {
    unit: UnitOfWork,
    taken: Taken,
    outcomes: Vec<Outcome>,
}

/// Polls that are on their way to the log, for those that are decided behind them.
#[derive(Default)]
pub struct Ahead<'a> {
    /// What they were decided to be, the last one first.
    staged: Vec<&'a Staged>,
    keys: HashSet<&'a InboxKey>,
}

impl<'a> Ahead<'a> {
    /// These, in the order in which they were handed in.
    pub fn of(polls: impl DoubleEndedIterator<Item = (&'a Poll, &'a Staged)>) -> Self {
        let mut ahead = Self::default();
        for (poll, staged) in polls.rev() {
            ahead.staged.push(staged);
            ahead.keys.extend(poll.keys());
        }
        ahead
    }
}

impl Commands {
    /// Decides a poll as it will be once those ahead of it stand. It can't be appended unless they do, as they were decided.
    ///
    /// # Errors
    /// Those of [`Commands::take_poll`].
    pub async fn stage_poll(&self, poll: &Poll, ahead: &Ahead<'_>) -> Result<Staged, CommandError> {
        let asked_for = self.known_keys.may_be_used(&poll.keys());
        self.stage_asking(&asked_for, poll, ahead).await
    }

    /// Appends a poll as it was decided; none where that does not hold any more, and nothing of it stands.
    ///
    /// # Errors
    /// Those of [`Commands::take_poll`], and `Unfit` where the log refuses it.
    pub async fn append_staged(&self, poll: &Poll, staged: &Staged) -> Result<Option<Taken>, CommandError> {
        let Some(Appended { last }) = self.append(&staged.unit).await? else {
            return Ok(None);
        };
        self.known_members.keep(staged.unit.clone());
        self.known_keys.use_all(&poll.keys());
        for (message, outcome) in poll.messages.iter().zip(&staged.outcomes) {
            let labels = MessageLabels::of(message, *outcome);
            self.message_counts.get_or_create(&labels).inc();
        }
        let position = match last {
            Some(last) => last.position,
            None => self.head().await?,
        };
        Ok(Some(Taken {
            position,
            ..staged.taken
        }))
    }

    /// Takes a poll that was decided in vain, like [`Commands::take_poll`].
    ///
    /// # Errors
    /// The same.
    pub async fn take_anew(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let taken = self.take_again(poll).await;
        self.or_apart(poll, taken).await
    }

    /// Takes a poll. Nothing of it is lost and nothing is taken twice. Where the log refuses something of it, that alone is
    /// set aside.
    ///
    /// # Errors
    /// `OffsetFenced` where the partition is somebody else's by now, `Unavailable`; then nothing of it stands, or it can
    /// be taken again without harm.
    pub async fn take_poll(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let taken = self.take_whole(poll).await;
        self.or_apart(poll, taken).await
    }

    /// What became of a poll; where the log refuses it, what becomes of its halves.
    async fn or_apart(&self, poll: &Poll, taken: Result<Taken, CommandError>) -> Result<Taken, CommandError> {
        match taken {
            Err(CommandError::Unfit(error)) => {
                tracing::error!(error = %Report(&*error), messages = poll.messages.len(), "the log refuses a poll");
                Box::pin(self.take_apart(poll)).await
            }
            taken => taken,
        }
    }

    async fn take_apart(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let Some((first, second)) = poll.halves() else {
            // A copy of one that was set aside is a repetition, which only who asks for its key can tell.
            return match self.take_again(poll).await {
                Err(CommandError::Unfit(_)) => self.park_unfit(poll).await,
                taken => taken,
            };
        };
        let (first, second) = (self.take_poll(&first).await?, self.take_poll(&second).await?);
        Ok(first.and(second))
    }

    /// Sets a poll's only message aside; where the log takes not even that, without what its producer says beside it.
    async fn park_unfit(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let unfit = poll.clone().unfit();
        match self.take_whole(&unfit).await {
            Err(CommandError::Unfit(_)) => self.take_whole(&unfit.bare()).await,
            taken => taken,
        }
    }

    async fn take_whole(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let staged = self.stage_poll(poll, &Ahead::default()).await?;
        match self.append_staged(poll, &staged).await? {
            Some(taken) => Ok(taken),
            None => self.take_again(poll).await,
        }
    }

    /// Takes a poll that was decided in vain.
    async fn take_again(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.again().await?;
            // What it was refused for may be a key that was believed to be new.
            let staged = self.stage_asking(&poll.keys(), poll, &Ahead::default()).await?;
            if let Some(taken) = self.append_staged(poll, &staged).await? {
                return Ok(taken);
            }
        }
    }

    /// Decides a poll, of whose keys only these are looked for in the inbox.
    async fn stage_asking(
        &self,
        asked_for: &[&InboxKey],
        poll: &Poll,
        ahead: &Ahead<'_>,
    ) -> Result<Staged, CommandError> {
        let unit = self.unit(&Actor::Intake);
        for staged in &ahead.staged {
            unit.rest_on_unit(&staged.unit);
        }
        let mut elsewhere = streams(&poll.messages);
        elsewhere.retain(|stream_id| {
            let mut ahead = ahead.staged.iter();
            let staged = ahead.find_map(|staged| staged.unit.lend_staged::<Member>(stream_id));
            let is_elsewhere = staged.is_none();
            if let Some((sequence, member)) = staged {
                unit.rest_on_known(stream_id, sequence, member);
            }
            is_elsewhere
        });
        // What is known of them may be out of date: then the append conflicts, and they are read.
        let unknown = self.known_members.lend(&unit, elsewhere);
        unit.preload::<Member>(&unknown).await?;
        let mut used = used_keys(&self.pool, asked_for).await?;
        let used_ahead = poll.keys().into_iter().filter(|key| ahead.keys.contains(key));
        used.extend(used_ahead.cloned());
        let (taken, outcomes) = stage(&unit, poll, used).await?;
        if let Some(offset) = &poll.offset {
            unit.move_offset(offset.clone());
        }
        Ok(Staged {
            unit,
            taken,
            outcomes,
        })
    }
}

/// What becomes of the poll, and of each of its messages.
async fn stage(
    unit: &UnitOfWork,
    poll: &Poll,
    mut used: HashSet<InboxKey>,
) -> Result<(Taken, Vec<Outcome>), CommandError> {
    let mut outcomes = Vec::with_capacity(poll.messages.len());
    for message in &poll.messages {
        let outcome = match &message.meaning {
            Ok(event) if !used.insert(event.key.clone()) => Outcome::Repeated,
            Ok(event) => {
                unit.use_key(event.key.clone());
                let effect = if is_behind_parked(unit, event).await? {
                    Effect::CannotBeTaken("behind_parked")
                } else {
                    take(unit, event).await?
                };
                match effect {
                    Effect::Applied => Outcome::Applied,
                    Effect::Stale => Outcome::Stale,
                    Effect::CannotBeTaken(reason) => {
                        park(unit, message, &unusable(event, reason)).await?;
                        Outcome::Parked
                    }
                }
            }
            Err(unusable) => {
                if let Some(key) = &unusable.key {
                    unit.use_key(key.clone());
                }
                park(unit, message, unusable).await?;
                Outcome::Parked
            }
        };
        outcomes.push(outcome);
    }
    let of = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let taken = Taken {
        applied: of(Outcome::Applied),
        repeated: of(Outcome::Repeated),
        stale: of(Outcome::Stale),
        parked: of(Outcome::Parked),
        position: 0,
    };
    Ok((taken, outcomes))
}

/// What becomes of an event that can be used.
pub(super) enum Effect {
    /// It changes something.
    Applied,
    /// It changes nothing.
    Stale,
    /// It has to be set aside; why, a code.
    CannotBeTaken(&'static str),
}

/// Would it overtake a parked message of its member?
pub(super) async fn is_behind_parked(
    unit: &UnitOfWork,
    event: &MembershipEvent,
) -> Result<bool, CommandError> {
    match event.member() {
        None => Ok(false),
        Some((organization_id, member_id)) => {
            let stream_id = Member::stream_id(organization_id, member_id);
            Ok(unit.look(&stream_id, Member::is_blocked).await?)
        }
    }
}

/// Lets the domain decide an event.
pub(super) async fn take(unit: &UnitOfWork, event: &MembershipEvent) -> Result<Effect, CommandError> {
    let organization_id = event.organization_id;
    let before = unit.staged_events();
    match &event.about {
        About::Organization => {
            let command = OrganizationCommand::Remove(organization_id);
            match unit
                .execute::<Organization>(&organization_id.to_string(), command)
                .await?
            {
                Ok(()) => {}
                Err(never) => match never {},
            }
        }
        About::Member {
            member_id,
            version,
            fact,
            profile,
        } => {
            let stream_id = Member::stream_id(organization_id, *member_id);
            let change = MemberChange::Membership {
                version: *version,
                fact: fact.clone(),
            };
            let command = MemberCommand {
                organization_id,
                member_id: *member_id,
                change,
            };
            if let Err(refusal) = unit.execute::<Member>(&stream_id, command).await? {
                return Ok(Effect::CannotBeTaken(refusal.code()));
            }
            if let Some(profile) = profile.as_ref().filter(|_| unit.staged_events() > before) {
                unit.write_profile(profile.clone());
            }
        }
    }
    Ok(if unit.staged_events() > before {
        Effect::Applied
    } else {
        Effect::Stale
    })
}

/// Sets a message aside, as it came, and blocks whom it may be about: what they may do is not known any more.
async fn park(unit: &UnitOfWork, message: &Message, unusable: &Unusable) -> Result<(), CommandError> {
    let parked_id = Uuid::now_v7();
    let raw = &message.raw;
    let first = unusable.members.first();
    let headers = raw
        .headers
        .iter()
        .map(|(name, value)| serde_json::json!([name, value]))
        .collect();
    unit.change_parked(ParkedChange::Park(Box::new(ParkedMessage {
        id: parked_id,
        organization_id: first.map(|(organization_id, _)| *organization_id),
        member_id: first.map(|(_, member_id)| *member_id),
        members: unusable.members.clone(),
        holds_key: unusable.key.is_some(),
        event_type: unusable.event_type.clone(),
        reason: unusable.reason.to_owned(),
        partition: raw.partition.clone(),
        message_offset: raw.offset,
        message_key: raw.key.as_ref().map(hex::encode),
        headers: serde_json::Value::Array(headers),
        payload: raw.payload.as_ref().map(hex::encode),
    })));
    for (organization_id, member_id) in &unusable.members {
        let change = MemberChange::Block {
            parked_id,
            reason: unusable.reason.to_owned(),
        };
        let command = MemberCommand {
            organization_id: *organization_id,
            member_id: *member_id,
            change,
        };
        unit.execute::<Member>(&Member::stream_id(*organization_id, *member_id), command)
            .await?
            .map_err(|refusal| CommandError::Internal(refusal.into()))?;
    }
    Ok(())
}

fn unusable(event: &MembershipEvent, reason: &'static str) -> Unusable {
    Unusable {
        key: Some(event.key.clone()),
        reason,
        event_type: Some(event.event_type.clone()),
        members: event.member().into_iter().collect(),
    }
}

/// By which messages that can be used are known.
pub(super) fn keys(messages: &[Message]) -> impl Iterator<Item = &InboxKey> {
    let events = messages
        .iter()
        .filter_map(|message| message.meaning.as_ref().ok());
    events.map(|event| &event.key)
}

/// Which of these were used before.
pub(super) async fn used_keys(pool: &PgPool, keys: &[&InboxKey]) -> Result<HashSet<InboxKey>, CommandError> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let (sources, keys): (Vec<&str>, Vec<&str>) = keys
        .iter()
        .map(|key| (key.source.as_str(), key.key.as_str()))
        .unzip();
    let used: Vec<(String, String)> = sqlx::query_as(
        "select source, key from inbox join unnest($1::text[], $2::text[]) as wanted (source, key) using (source, key)",
    )
    .bind(sources)
    .bind(keys)
    .fetch_all(pool)
    .await?;
    Ok(used
        .into_iter()
        .map(|(source, key)| InboxKey { source, key })
        .collect())
}

/// The streams of everybody the messages may be about.
pub(super) fn streams<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<String> {
    let ids: BTreeSet<String> = messages
        .into_iter()
        .flat_map(Message::members)
        .map(|(organization_id, member_id)| Member::stream_id(organization_id, member_id))
        .collect();
    ids.into_iter().collect()
}
