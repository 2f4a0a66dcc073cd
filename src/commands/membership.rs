//! Takes what the membership topic says. One poll of one partition is one request: its events, the keys of its messages,
//! what had to be parked, and the offset stand together or not at all.

use std::collections::{BTreeSet, HashSet};

use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberChange, MemberCommand, MembershipFact};
use domain::organization::{Organization, OrganizationCommand};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Actor, Appended, Attempts, CommandError, Commands};
use crate::log::{InboxKey, OffsetMove, ParkedMessage, Partition, Profile, UnitOfWork};

/// A message of the topic, as it came and as it was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its bytes, for parking.
    pub raw: RawMessage,
    /// What it says.
    pub meaning: Result<MembershipEvent, Unusable>,
}

/// A message as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawMessage {
    /// Where it came from; none: over HTTP.
    pub partition: Option<Partition>,
    /// Its offset there.
    pub offset: Option<i64>,
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

impl Commands {
    /// Takes a poll. Nothing of it is lost and nothing is taken twice.
    ///
    /// # Errors
    /// `OffsetFenced` where the partition is somebody else's by now, `Unavailable`; then nothing of it stands, or it can
    /// be taken again without harm.
    pub async fn take_poll(&self, poll: &Poll) -> Result<Taken, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Intake);
            let mut taken = stage(&self.pool, &unit, poll).await?;
            if let Some(offset) = &poll.offset {
                unit.move_offset(offset.clone());
            }
            if let Some(Appended { last }) = self.append(&unit).await? {
                taken.position = match last {
                    Some(last) => last.position,
                    None => self.head().await?,
                };
                return Ok(taken);
            }
            attempts.again().await?;
        }
    }
}

async fn stage(pool: &PgPool, unit: &UnitOfWork, poll: &Poll) -> Result<Taken, CommandError> {
    let mut used = used_keys(pool, poll).await?;
    unit.preload::<Member>(&streams(poll)).await?;
    let mut taken = Taken::default();
    for message in &poll.messages {
        match &message.meaning {
            Ok(event) if !used.insert(event.key.clone()) => taken.repeated += 1,
            Ok(event) => {
                unit.use_key(event.key.clone());
                match take(unit, event).await? {
                    Effect::Applied => taken.applied += 1,
                    Effect::Stale => taken.stale += 1,
                    Effect::CannotBeTaken(reason) => {
                        park(unit, message, &unusable(event, reason)).await?;
                        taken.parked += 1;
                    }
                }
            }
            Err(unusable) => {
                park(unit, message, unusable).await?;
                taken.parked += 1;
            }
        }
    }
    Ok(taken)
}

enum Effect {
    Applied,
    Stale,
    CannotBeTaken(&'static str),
}

async fn take(unit: &UnitOfWork, event: &MembershipEvent) -> Result<Effect, CommandError> {
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
            if unit.load::<Member>(&stream_id).await?.is_blocked() {
                return Ok(Effect::CannotBeTaken("behind_parked"));
            }
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
    unit.park(ParkedMessage {
        id: parked_id,
        organization_id: first.map(|(organization_id, _)| *organization_id),
        member_id: first.map(|(_, member_id)| *member_id),
        event_type: unusable.event_type.clone(),
        reason: unusable.reason.to_owned(),
        partition: raw.partition.clone(),
        message_offset: raw.offset,
        message_key: raw.key.as_ref().map(hex::encode),
        headers: serde_json::Value::Array(headers),
        payload: raw.payload.as_ref().map(hex::encode),
    });
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
    let members = match event.about {
        About::Member { member_id, .. } => vec![(event.organization_id, member_id)],
        About::Organization => Vec::new(),
    };
    Unusable {
        reason,
        event_type: Some(event.event_type.clone()),
        members,
    }
}

/// Which of the poll's keys were used before.
async fn used_keys(pool: &PgPool, poll: &Poll) -> Result<HashSet<InboxKey>, CommandError> {
    let events = poll
        .messages
        .iter()
        .filter_map(|message| message.meaning.as_ref().ok());
    let (sources, keys): (Vec<String>, Vec<String>) = events
        .map(|event| (event.key.source.clone(), event.key.key.clone()))
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

fn streams(poll: &Poll) -> Vec<String> {
    let members = poll.messages.iter().flat_map(|message| match &message.meaning {
        Ok(MembershipEvent {
            organization_id,
            about: About::Member { member_id, .. },
            ..
        }) => {
            vec![(*organization_id, *member_id)]
        }
        Ok(_) => Vec::new(),
        Err(unusable) => unusable.members.clone(),
    });
    let ids: BTreeSet<String> = members
        .map(|(organization_id, member_id)| Member::stream_id(organization_id, member_id))
        .collect();
    ids.into_iter().collect()
}
