//! What happens in an organization over the years, event by event: members join, gain and lose permission, leave; tokens are
//! made, renamed, stopped, started, rotated, removed. As the domain's own commands would have it, but without loading
//! anything: a log of millions of events is there in minutes.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::DomainEvent;
use domain::access_token::{AccessTokenEvent, Created, DeactivationReason, TokenName, TokenType};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberEvent, Place};
use domain::policy::{Action, Effect, ResourcePattern, Statement, built_in};
use domain::secret::Secret;
use featbit_tokens::log::{AppendRequest, NewEvent, Stream};
use serde::Serialize;
use uuid::Uuid;

use crate::draw::Draw;

/// Of a hundred tokens so many are personal.
const PERSONAL: usize = 60;

/// An organization and its log so far.
#[derive(Debug)]
pub struct Life {
    id: OrganizationId,
    people: Vec<Person>,
    /// Those that were not removed.
    tokens: Vec<Token>,
    /// What follows by itself: the tokens that the reactor stops.
    due: Vec<(Token, u32)>,
    issued: u64,
    draw: Draw,
    began: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug)]
struct Person {
    id: MemberId,
    heard: i64,
    membership_number: u32,
    is_member: bool,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    id: TokenId,
    sequence: i64,
    creator: usize,
    is_personal: bool,
    is_active: bool,
}

/// What happened, to which stream, with which sequence.
struct Happened {
    stream: Stream,
    sequence: i64,
    event_type: String,
    event_version: String,
    payload: String,
    actor: String,
}

impl Life {
    /// An organization of which nothing was heard yet.
    #[must_use]
    pub fn new(mut draw: Draw, members: usize) -> Self {
        let id = draw.uuid().into();
        let person = |_| Person {
            id: draw.uuid().into(),
            heard: 0,
            membership_number: 0,
            is_member: false,
        };
        let people = (0..members.max(1)).map(person).collect();
        Self {
            id,
            people,
            tokens: Vec::new(),
            due: Vec::new(),
            issued: 0,
            draw,
            began: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
        }
    }

    /// The next events, as one request to append.
    ///
    /// # Errors
    /// Where an event can't be written as JSON.
    pub fn next(&mut self, events: usize) -> Result<AppendRequest, serde_json::Error> {
        let mut request = AppendRequest {
            command_id: Uuid::now_v7(),
            streams: Vec::new(),
            events: Vec::new(),
            inbox: Vec::new(),
            names: Vec::new(),
            offset: None,
            parked: Vec::new(),
            profiles: Vec::new(),
            idempotency: None,
            rests_on: Vec::new(),
        };
        let mut streams = BTreeMap::new();
        while request.events.len() < events {
            let Some(happened) = self.happens()? else {
                continue;
            };
            streams
                .entry(happened.stream.clone())
                .or_insert(happened.sequence.saturating_sub(1));
            let metadata = serde_json::json!({ "actor": happened.actor, "requestId": self.draw.uuid() });
            request.events.push(NewEvent {
                stream: happened.stream,
                sequence: happened.sequence,
                event_type: happened.event_type,
                event_version: happened.event_version,
                organization_id: self.id,
                payload: happened.payload,
                metadata: metadata.to_string().into(),
            });
        }
        request.streams = streams.into_iter().collect();
        Ok(request)
    }

    /// One thing, or nothing where what was drawn is not possible.
    fn happens(&mut self) -> Result<Option<Happened>, serde_json::Error> {
        if let Some((token, membership_number)) = self.due.pop() {
            let reason = DeactivationReason::CreatorRemoved { membership_number };
            return self.happens_to_token(token, "reactor", |organization_id| {
                AccessTokenEvent::Deactivated {
                    token_id: token.id,
                    organization_id,
                    reason,
                }
            });
        }
        if let Some(nobody) = self.people.iter().position(|person| person.heard == 0) {
            return self.happens_to_member(nobody, 98);
        }
        match self.draw.below(100) {
            0..34 => self.create(),
            drawn @ 34..87 => self.change_a_token(drawn),
            drawn => {
                let person = self.draw.below(self.people.len());
                self.happens_to_member(person, drawn)
            }
        }
    }

    fn create(&mut self) -> Result<Option<Happened>, serde_json::Error> {
        let creator = self.draw.below(self.people.len());
        let Some(person) = self
            .people
            .get(creator)
            .copied()
            .filter(|person| person.is_member)
        else {
            return Ok(None);
        };
        self.issued = self.issued.saturating_add(1);
        let is_personal = self.draw.in_a_hundred(PERSONAL);
        let token_type = if is_personal {
            TokenType::Personal
        } else {
            TokenType::Service
        };
        let secret = Secret::generate(token_type.secret_kind(), self.draw.bytes());
        let token_id = TokenId::from(self.draw.uuid());
        let Ok(name) = TokenName::parse(&format!("token {:06} of somebody", self.issued)) else {
            return Ok(None);
        };
        let token = Token {
            id: token_id,
            sequence: 0,
            creator,
            is_personal,
            is_active: true,
        };
        let statements = if is_personal {
            Vec::new()
        } else {
            vec![self.statement()]
        };
        let created = Created {
            token_id,
            organization_id: self.id,
            creator_id: person.id,
            membership_number: person.membership_number,
            name,
            token_type,
            statements,
            description: self
                .draw
                .in_a_hundred(30)
                .then(|| "what it is for, in a few words".to_owned()),
            expires_at: self
                .draw
                .in_a_hundred(40)
                .then(|| self.began + TimeDelta::days(3650)),
            allowed_ips: Vec::new(),
            digest: secret.digest(),
            hint: secret.hint(),
        };
        let actor = format!("member:{}", person.id);
        self.tokens.push(Token { sequence: 1, ..token });
        self.happens_to_token(token, &actor, |_| AccessTokenEvent::Created(created.into()))
    }

    fn change_a_token(&mut self, drawn: usize) -> Result<Option<Happened>, serde_json::Error> {
        let which = self.draw.below(self.tokens.len());
        let Some(token) = self.tokens.get(which).copied() else {
            return Ok(None);
        };
        let Some(person) = self.people.get(token.creator).copied() else {
            return Ok(None);
        };
        if !person.is_member {
            return Ok(None);
        }
        let actor = format!("member:{}", person.id);
        let (token_id, organization_id) = (token.id, self.id);
        let mut after = Token {
            sequence: token.sequence.saturating_add(1),
            ..token
        };
        let days = i64::try_from(self.draw.below(365)).unwrap_or(1);
        let event = match drawn {
            34..44 => {
                let Ok(name) = TokenName::parse(&format!("renamed {}", self.draw.uuid())) else {
                    return Ok(None);
                };
                AccessTokenEvent::Renamed {
                    token_id,
                    organization_id,
                    name,
                }
            }
            44..50 => AccessTokenEvent::DescriptionChanged {
                token_id,
                organization_id,
                description: Some(format!("as of day {days}")),
            },
            50..58 if token.is_active => {
                after.is_active = false;
                AccessTokenEvent::Deactivated {
                    token_id,
                    organization_id,
                    reason: DeactivationReason::ByMember,
                }
            }
            50..64 if !token.is_active => {
                after.is_active = true;
                AccessTokenEvent::Activated {
                    token_id,
                    organization_id,
                    membership_number: person.membership_number,
                }
            }
            64..72 => {
                let kind = if token.is_personal {
                    TokenType::Personal
                } else {
                    TokenType::Service
                };
                let secret = Secret::generate(kind.secret_kind(), self.draw.bytes());
                AccessTokenEvent::SecretRotated {
                    token_id,
                    organization_id,
                    previous_until: Some(self.began + TimeDelta::days(days)),
                    digest: secret.digest(),
                    hint: secret.hint(),
                }
            }
            72..76 => AccessTokenEvent::ExpiryChanged {
                token_id,
                organization_id,
                expires_at: Some(self.began + TimeDelta::days(3650 + days)),
            },
            76..79 => AccessTokenEvent::AllowedIpsChanged {
                token_id,
                organization_id,
                allowed_ips: "10.0.0.0/8".parse().into_iter().collect(),
            },
            79..87 => AccessTokenEvent::Removed {
                token_id,
                organization_id,
            },
            _ => return Ok(None),
        };
        if let AccessTokenEvent::Removed { .. } = event {
            self.tokens.swap_remove(which);
        } else if let Some(known) = self.tokens.get_mut(which) {
            *known = after;
        }
        self.happens_to_token(token, &actor, |_| event)
    }

    fn happens_to_token(
        &mut self,
        token: Token,
        actor: &str,
        event: impl FnOnce(OrganizationId) -> AccessTokenEvent,
    ) -> Result<Option<Happened>, serde_json::Error> {
        let stream = Stream {
            aggregate_type: "access_token",
            aggregate_id: token.id.to_string().into(),
        };
        happened(stream, token.sequence.saturating_add(1), actor, &event(self.id)).map(Some)
    }

    fn happens_to_member(
        &mut self,
        which: usize,
        drawn: usize,
    ) -> Result<Option<Happened>, serde_json::Error> {
        let statement = self.statement();
        let (organization_id, project) = (self.id, self.draw.below(4));
        let Some(person) = self.people.get_mut(which) else {
            return Ok(None);
        };
        let member_id = person.id;
        let place = Place::Arrival(person.heard.saturating_add(1));
        let membership_number = person.membership_number;
        let event = match drawn {
            _ if !person.is_member => {
                person.is_member = true;
                person.membership_number = membership_number.saturating_add(1);
                MemberEvent::Added {
                    organization_id,
                    member_id,
                    place,
                    membership_number: person.membership_number,
                    statements: match which {
                        0 => built_in::owner(),
                        1..=2 => built_in::administrator(),
                        _ => built_in::developer(),
                    },
                }
            }
            87..93 => MemberEvent::PermissionGranted {
                organization_id,
                member_id,
                place,
                statements: vec![statement],
            },
            93..97 => MemberEvent::PermissionRevoked {
                organization_id,
                member_id,
                place,
                permission: Action::new("ToggleFlag"),
                resources: Some(vec![ResourcePattern::new(format!(
                    "project/p{project}:env/prod:flag/*"
                ))]),
            },
            97 => MemberEvent::PermissionsReplaced {
                organization_id,
                member_id,
                place,
                statements: built_in::developer(),
            },
            _ if which > 0 => {
                person.is_member = false;
                let theirs =
                    |token: &&mut Token| token.creator == which && token.is_personal && token.is_active;
                for token in self.tokens.iter_mut().filter(theirs) {
                    self.due.push((*token, membership_number));
                    token.sequence = token.sequence.saturating_add(1);
                    token.is_active = false;
                }
                MemberEvent::Removed {
                    organization_id,
                    member_id,
                    place,
                    membership_number,
                }
            }
            _ => return Ok(None),
        };
        person.heard = person.heard.saturating_add(1);
        let sequence = person.heard;
        let stream = Stream {
            aggregate_type: "member",
            aggregate_id: Member::stream_id(organization_id, member_id).into(),
        };
        happened(stream, sequence, "intake", &event).map(Some)
    }

    fn statement(&mut self) -> Statement {
        let project = self.draw.below(4);
        Statement {
            id: Some(self.draw.uuid().to_string()),
            resource_type: "flag".to_owned(),
            effect: Effect::Allow,
            actions: vec![Action::new("ToggleFlag"), Action::new("UpdateFlagTargetUsers")],
            resources: vec![ResourcePattern::new(format!("project/p{project}:env/*:flag/*"))],
        }
    }
}

fn happened<E: DomainEvent + Serialize>(
    stream: Stream,
    sequence: i64,
    actor: &str,
    event: &E,
) -> Result<Happened, serde_json::Error> {
    Ok(Happened {
        stream,
        sequence,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: serde_json::to_string(event)?,
        actor: actor.to_owned(),
    })
}
