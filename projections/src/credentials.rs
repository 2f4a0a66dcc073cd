//! The read model that a node's index starts from: every token as decisions know it, and every member, folded by the domain's
//! own code. A batch of events is folded in memory: the rows it touches are read once, and those it changes are written once.

mod rows;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cqrs_es::Aggregate;
use domain::access_token::{AccessTokenEvent, Created};
use domain::authorization::Credential;
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberEvent};
use domain::organization::OrganizationEvent;
use sqlx::PgConnection;

pub use snapshot::{CreatorReader, Page, Pages, SharedCreator, Snapshot, SnapshotError, TokenReader};

use crate::copy::NewRows;
use crate::log::{Fact, RecordedEvent};
use crate::runner::{ProjectError, let_go_of_some};

/// A token, and where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct CredentialRow {
    /// Which.
    pub token_id: TokenId,
    /// The member who made it.
    pub creator_id: MemberId,
    /// Where in the log it was created.
    pub created_position: i64,
    /// All else.
    pub credential: Credential,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreatorRow {
    /// As its stream gives it.
    pub member: Member,
    /// The last sequence of its stream that it holds; 0 where nothing was heard of it, but a token of its.
    pub sequence: i64,
    /// Its organization was removed, and it has not been added since.
    pub has_ended: bool,
}

/// Names a member.
pub type MemberKey = (OrganizationId, MemberId);

/// The rows that a batch of events touches.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    credentials: BTreeMap<TokenId, Touched<CredentialRow>>,
    creators: BTreeMap<MemberKey, Touched<CreatorRow>>,
}

/// A row, and how its table has it.
#[derive(Debug, Default)]
struct Touched<R> {
    row: R,
    stored: Stored,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stored {
    /// Not at all.
    #[default]
    Not,
    /// Otherwise.
    Otherwise,
    /// As it is.
    AsIs,
}

impl<R> Touched<R> {
    fn new(row: R) -> Self {
        Self {
            row,
            stored: Stored::Not,
        }
    }

    fn loaded(row: R) -> Self {
        Self {
            row,
            stored: Stored::AsIs,
        }
    }

    /// To be changed.
    fn change(&mut self) -> &mut R {
        if self.stored == Stored::AsIs {
            self.stored = Stored::Otherwise;
        }
        &mut self.row
    }

    fn is_new(&self) -> bool {
        self.stored == Stored::Not
    }

    fn is_changed(&self) -> bool {
        self.stored == Stored::Otherwise
    }
}

/// All of them at once. Creators that are held, as their table has them, are not read.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[Arc<RecordedEvent>],
    batch: &mut Batch,
) -> Result<(), ProjectError> {
    batch.load(connection, events).await?;
    for event in events {
        batch.apply(event);
    }
    batch.store(connection).await?;
    batch.credentials.clear();
    for held in batch.creators.values_mut() {
        held.stored = Stored::AsIs;
    }
    let_go_of_some(&mut batch.creators);
    Ok(())
}

impl Batch {
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), ProjectError> {
        let (mut tokens, mut members, mut organizations) = (Vec::new(), BTreeSet::new(), Vec::new());
        for event in events {
            match &event.fact {
                Fact::AccessToken(AccessTokenEvent::Created(created)) => {
                    members.insert((created.organization_id, created.creator_id));
                }
                Fact::AccessToken(_) => tokens.extend(token_id(event)),
                Fact::Member(fact) => {
                    members.insert(fact.subject());
                }
                Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                    organizations.push(*organization_id);
                }
            }
        }
        let credentials = rows::credentials(connection, &tokens, &organizations).await?;
        members.retain(|key| !self.creators.contains_key(key));
        let creators = rows::creators(connection, &members, &organizations).await?;
        let credentials = credentials
            .into_iter()
            .map(|row| (row.token_id, Touched::loaded(row)));
        let creators = creators.into_iter().map(|(key, row)| (key, Touched::loaded(row)));
        self.credentials.extend(credentials);
        self.creators.extend(creators);
        Ok(())
    }

    /// As the index takes it.
    pub(crate) fn apply(&mut self, event: &RecordedEvent) {
        match &event.fact {
            Fact::AccessToken(AccessTokenEvent::Created(created)) => self.issue(event.position, created),
            Fact::AccessToken(fact) => {
                if let Some(held) = token_id(event).and_then(|id| self.credentials.get_mut(&id)) {
                    held.change().credential.apply(fact);
                }
            }
            Fact::Member(fact) => {
                let creator = self.creator(fact.subject());
                creator.member.apply(fact.clone());
                creator.sequence = event.sequence;
                creator.has_ended &= !matches!(fact, MemberEvent::Added { .. });
            }
            Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                self.remove_organization(*organization_id);
            }
        }
    }

    fn issue(&mut self, created_position: i64, created: &Created) {
        let mut credential = Credential::issued(created);
        // A row that is there already stays as it is: most tokens are made by members who are known.
        let key = (created.organization_id, created.creator_id);
        let has_ended = match self.creators.get(&key) {
            Some(creator) => creator.row.has_ended,
            None => self.creator(key).has_ended,
        };
        // Made in the moment after its organization was removed.
        if has_ended {
            credential.remove();
        }
        let row = CredentialRow {
            token_id: created.token_id,
            creator_id: created.creator_id,
            created_position,
            credential,
        };
        self.credentials.insert(created.token_id, Touched::new(row));
    }

    /// To be changed: a token's creator is there from then on, whether or not anything was heard of it.
    fn creator(&mut self, key: MemberKey) -> &mut CreatorRow {
        self.creators.entry(key).or_default().change()
    }

    fn remove_organization(&mut self, organization_id: OrganizationId) {
        for held in self.credentials.values_mut() {
            if held.row.credential.organization_id == organization_id {
                held.change().credential.remove();
            }
        }
        for (key, held) in &mut self.creators {
            if key.0 == organization_id {
                held.change().has_ended = true;
            }
        }
    }

    /// All of them, where the tables have none of them.
    pub(crate) fn all_new(self) -> Result<[NewRows; 2], ProjectError> {
        Ok([
            rows::new_credentials(self.credentials.values().map(|held| &held.row))?,
            rows::new_creators(self.creators.iter().map(|(key, held)| (*key, &held.row)))?,
        ])
    }

    async fn store(&self, connection: &mut PgConnection) -> Result<(), ProjectError> {
        let new = self.credentials.values().filter(|held| held.is_new());
        rows::new_credentials(new.map(|held| &held.row))?
            .store(connection)
            .await?;
        let changed = self.credentials.values().filter(|held| held.is_changed());
        rows::update_credentials(connection, changed.map(|held| &held.row)).await?;
        let creators = self.creators.iter();
        let creators = creators.filter(|(_, held)| held.is_new() || held.is_changed());
        rows::store_creators(connection, creators.map(|(key, held)| (*key, &held.row))).await
    }
}

fn token_id(event: &RecordedEvent) -> Option<TokenId> {
    event.aggregate_id.parse().ok()
}
