//! Everything that decisions are made from, up to one position of the log: secret and id to token, token to creator,
//! organization to both. Many read, without a lock and while it is written; one task writes, by events in their order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use cqrs_es::Aggregate;
use domain::access_token::{AccessTokenEvent, Created};
use domain::authorization::{Credential, CredentialState};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberEvent, Standing};
use domain::organization::OrganizationEvent;
use domain::policy::Rules;
use domain::secret::SecretDigest;
use papaya::HashMap;
use projections::credentials::{CredentialRow, MemberKey, SharedCreator};
use projections::log::{Fact, RecordedEvent};

use super::last_used::Uses;
use super::shared_rules::SharedRules;

/// What one stretch of the log, from its beginning, comes to.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) by_digest: HashMap<SecretDigest, Arc<TokenEntry>>,
    pub(super) by_id: HashMap<TokenId, Arc<TokenEntry>>,
    pub(super) members: HashMap<(OrganizationId, MemberId), Arc<MemberEntry>>,
    organizations: HashMap<OrganizationId, Arc<OrganizationEntry>>,
    position: AtomicI64,
    /// Of the one who writes; nobody else locks it.
    shared: Mutex<SharedRules>,
}

/// A token. It is found by its id and by its secrets; what changes of it changes in one place.
#[derive(Debug)]
pub(super) struct TokenEntry {
    pub(super) id: TokenId,
    pub(super) creator: Arc<MemberEntry>,
    pub(super) credential: ArcSwap<Credential>,
    pub(super) uses: Uses,
}

/// A member, shared by all tokens it has made.
#[derive(Debug)]
pub(super) struct MemberEntry {
    pub(super) organization_id: OrganizationId,
    pub(super) member_id: MemberId,
    /// The member, and the last sequence of its stream that it holds.
    pub(super) member: ArcSwap<(Arc<Member>, i64)>,
    pub(super) standing: ArcSwap<Standing>,
    /// Its organization was removed, and it has not been added since.
    ended: AtomicBool,
}

/// A member that a row of events changes: its history is copied once for all of them.
struct Change {
    entry: Arc<MemberEntry>,
    member: Member,
    sequence: i64,
}

impl Change {
    fn apply(&mut self, sequence: i64, fact: &MemberEvent) {
        if matches!(fact, MemberEvent::Added { .. }) {
            self.entry.ended.store(false, Ordering::Relaxed);
        }
        self.member.apply(fact.clone());
        self.sequence = sequence;
    }
}

/// Who and what is in an organization. No decision looks at it.
#[derive(Debug, Default)]
pub(super) struct OrganizationEntry {
    /// In the order in which they were created: a place in it is the same on every node, for ever.
    tokens: Mutex<Vec<Arc<TokenEntry>>>,
    /// How many of them are not removed.
    present: AtomicI64,
    members: Mutex<Vec<Arc<MemberEntry>>>,
}

impl Contents {
    /// The last position applied.
    pub(super) fn position(&self) -> i64 {
        self.position.load(Ordering::Acquire)
    }

    /// Takes the next events of the log, one stretch after the other.
    ///
    /// Until the whole stretch is taken the position stays behind, so an answer in between is at least as new as it says.
    pub(super) fn apply(&self, events: &[Arc<RecordedEvent>]) {
        // What a member may do is worked out once for a row of its events, not after each of them: a long history would be
        // folded too often. But before anything else is taken, so that nothing overtakes it.
        let mut changed = BTreeMap::new();
        for event in events {
            if !matches!(event.fact, Fact::Member(_)) {
                self.work_out(&mut changed);
            }
            match &event.fact {
                Fact::AccessToken(AccessTokenEvent::Created(created)) => self.issue(created),
                Fact::AccessToken(fact) => self.apply_to_token(event, fact),
                Fact::Member(fact) => {
                    let change = changed
                        .entry(fact.subject())
                        .or_insert_with(|| self.begin_change(fact.subject()));
                    change.apply(event.sequence, fact);
                }
                Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                    self.remove_organization(*organization_id);
                }
            }
        }
        self.work_out(&mut changed);
        if let Some(last) = events.last() {
            self.position.store(last.position, Ordering::Release);
        }
    }

    /// All of them, as they are now.
    pub(super) fn organizations(&self) -> Vec<Arc<OrganizationEntry>> {
        self.organizations.pin().values().map(Arc::clone).collect()
    }

    /// How many tokens of an organization are not removed.
    pub(super) fn token_count(&self, organization_id: OrganizationId) -> i64 {
        let organizations = self.organizations.pin();
        let present = |entry: &Arc<OrganizationEntry>| entry.present.load(Ordering::Acquire);
        organizations.get(&organization_id).map_or(0, present)
    }

    /// Tokens of an organization in the order in which they were created, from a place on.
    pub(super) fn tokens_from(
        &self,
        organization_id: OrganizationId,
        place: usize,
        at_most: usize,
    ) -> Vec<Arc<TokenEntry>> {
        let organizations = self.organizations.pin();
        let Some(entry) = organizations.get(&organization_id) else {
            return Vec::new();
        };
        let tokens = lock(&entry.tokens);
        tokens.iter().skip(place).take(at_most).map(Arc::clone).collect()
    }

    fn issue(&self, created: &Created) {
        let mut credential = Credential::issued(created);
        self.shared().share(&mut credential.permission);
        let creator = self.member_entry(created.organization_id, created.creator_id);
        // Made in the moment after its organization was removed: the reactor's word for it is on its way.
        if creator.has_ended() {
            credential.remove();
        }
        let entry = Arc::new(TokenEntry {
            id: created.token_id,
            creator,
            credential: ArcSwap::from_pointee(credential),
            uses: Uses::default(),
        });
        self.organization_entry(created.organization_id)
            .add(Arc::clone(&entry));
        self.by_id.pin().insert(created.token_id, Arc::clone(&entry));
        self.by_digest.pin().insert(created.digest, entry);
    }

    fn apply_to_token(&self, event: &RecordedEvent, fact: &AccessTokenEvent) {
        let Ok(token_id) = event.aggregate_id.parse::<TokenId>() else {
            return;
        };
        let by_id = self.by_id.pin();
        if let Some(entry) = by_id.get(&token_id) {
            let present = entry.present();
            let (before, after) = entry.change(|credential| credential.apply(fact));
            if entry.present() < present {
                let organization = self.organization_entry(entry.creator.organization_id);
                organization.present.fetch_sub(1, Ordering::Release);
            }
            if matches!(fact, AccessTokenEvent::SecretRotated { .. }) {
                self.find_by_other_secrets(entry, &before, &after);
            }
        }
    }

    /// The token already refuses the secrets that have ended; here they are forgotten.
    fn find_by_other_secrets(&self, entry: &Arc<TokenEntry>, before: &Credential, after: &Credential) {
        let by_digest = self.by_digest.pin();
        for digest in after.secrets.digests() {
            by_digest.insert(digest, Arc::clone(entry));
        }
        for ended in before
            .secrets
            .digests()
            .filter(|digest| after.secrets.digests().all(|kept| kept != *digest))
        {
            by_digest.remove(&ended);
        }
    }

    fn begin_change(&self, (organization_id, member_id): (OrganizationId, MemberId)) -> Change {
        let entry = self.member_entry(organization_id, member_id);
        let (member, sequence) = &**entry.member.load();
        Change {
            member: Member::clone(member),
            sequence: *sequence,
            entry,
        }
    }

    /// Works out what these members may do now, and forgets that they have changed.
    fn work_out(&self, changed: &mut BTreeMap<(OrganizationId, MemberId), Change>) {
        for change in std::mem::take(changed).into_values() {
            let member = (Arc::new(change.member), change.sequence);
            change.entry.member.store(Arc::new(member));
            change.entry.changed(&mut self.shared());
        }
    }

    fn remove_organization(&self, organization_id: OrganizationId) {
        let organization = self.organization_entry(organization_id);
        for token in lock(&organization.tokens).iter() {
            token.change(Credential::remove);
        }
        organization.present.store(0, Ordering::Release);
        for member in lock(&organization.members).iter() {
            member.ended.store(true, Ordering::Relaxed);
            member.changed(&mut self.shared());
        }
    }

    fn member_entry(&self, organization_id: OrganizationId, member_id: MemberId) -> Arc<MemberEntry> {
        let members = self.members.pin();
        if let Some(entry) = members.get(&(organization_id, member_id)) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(MemberEntry::new(organization_id, member_id));
        lock(&self.organization_entry(organization_id).members).push(Arc::clone(&entry));
        members.insert((organization_id, member_id), Arc::clone(&entry));
        entry
    }

    fn organization_entry(&self, organization_id: OrganizationId) -> Arc<OrganizationEntry> {
        Arc::clone(
            self.organizations
                .pin()
                .get_or_insert_with(organization_id, Arc::default),
        )
    }

    fn shared(&self) -> MutexGuard<'_, SharedRules> {
        lock(&self.shared)
    }
}

impl OrganizationEntry {
    fn begin_with(&self, tokens: Vec<Arc<TokenEntry>>) {
        let present = tokens.iter().map(|token| token.present()).sum();
        self.present.store(present, Ordering::Release);
        *lock(&self.tokens) = tokens;
    }

    /// The next one to be created.
    fn add(&self, token: Arc<TokenEntry>) {
        self.present.fetch_add(token.present(), Ordering::Release);
        lock(&self.tokens).push(token);
    }

    /// The tokens that were used since it was last written down, and when.
    pub(super) fn unwritten_uses(&self) -> Vec<(Arc<TokenEntry>, u32)> {
        let tokens = lock(&self.tokens);
        let unwritten = |token: &Arc<TokenEntry>| Some((Arc::clone(token), token.uses.unwritten()?));
        tokens.iter().filter_map(unwritten).collect()
    }
}

impl TokenEntry {
    /// 1, or 0 where it is removed.
    fn present(&self) -> i64 {
        i64::from(self.credential.load().state != CredentialState::Removed)
    }

    /// Only the writer calls this. Answers what the token was before, and what it is now.
    fn change(&self, change: impl FnOnce(&mut Credential)) -> (Arc<Credential>, Arc<Credential>) {
        let before = self.credential.load_full();
        let mut after = Credential::clone(&before);
        change(&mut after);
        let after = Arc::new(after);
        self.credential.store(Arc::clone(&after));
        (before, after)
    }
}

impl MemberEntry {
    fn new(organization_id: OrganizationId, member_id: MemberId) -> Self {
        Self {
            organization_id,
            member_id,
            member: ArcSwap::default(),
            standing: ArcSwap::default(),
            ended: AtomicBool::new(false),
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn changed(&self, shared: &mut SharedRules) {
        let mut standing = self.member.load().0.standing();
        standing.is_member &= !self.has_ended();
        shared.share(&mut standing.permission);
        self.standing.store(Arc::new(standing));
    }
}

/// Puts contents together from what was written down of others: first the members, in any order, and then their tokens.
#[derive(Debug, Default)]
pub(super) struct Builder {
    contents: Contents,
    created: BTreeMap<OrganizationId, Vec<(i64, Arc<TokenEntry>)>>,
}

impl Builder {
    pub(super) fn with_room_for(tokens: usize) -> Self {
        Self {
            contents: Contents {
                by_digest: HashMap::with_capacity(tokens),
                by_id: HashMap::with_capacity(tokens),
                ..Contents::default()
            },
            created: BTreeMap::new(),
        }
    }

    pub(super) fn add_member(&mut self, (organization_id, member_id): MemberKey, creator: SharedCreator) {
        let entry = self.contents.member_entry(organization_id, member_id);
        entry.ended.store(creator.has_ended, Ordering::Relaxed);
        entry.member.store(Arc::new((creator.member, creator.sequence)));
        // Of one of whom nothing was heard, nothing was worked out either.
        if creator.sequence > 0 || creator.has_ended {
            entry.changed(&mut self.contents.shared());
        }
    }

    /// The same rules for all that have equal ones.
    pub(super) fn share(&self, rules: Rules) -> Arc<Rules> {
        self.contents.shared().shared(&Arc::new(rules))
    }

    /// A token whose rules are [shared](Self::share).
    pub(super) fn add_token(&mut self, row: CredentialRow) {
        let organization_id = row.credential.organization_id;
        let digests: Vec<SecretDigest> = row.credential.secrets.digests().collect();
        let entry = Arc::new(TokenEntry {
            id: row.token_id,
            creator: self.contents.member_entry(organization_id, row.creator_id),
            credential: ArcSwap::from_pointee(row.credential),
            uses: Uses::default(),
        });
        self.contents.by_id.pin().insert(row.token_id, Arc::clone(&entry));
        let by_digest = self.contents.by_digest.pin();
        for digest in digests {
            by_digest.insert(digest, Arc::clone(&entry));
        }
        self.created
            .entry(organization_id)
            .or_default()
            .push((row.created_position, entry));
    }

    /// What was put together is all there is up to this position.
    pub(super) fn finish(self, position: i64) -> Contents {
        for (organization_id, mut tokens) in self.created {
            tokens.sort_unstable_by_key(|(created_position, _)| *created_position);
            let tokens = tokens.into_iter().map(|(_, entry)| entry).collect();
            self.contents
                .organization_entry(organization_id)
                .begin_with(tokens);
        }
        self.contents.position.store(position, Ordering::Release);
        self.contents
    }
}

/// What a panic has left half done is no worse than what any reader may see.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
