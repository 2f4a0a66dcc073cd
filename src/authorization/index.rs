//! The authorization index: digest to token to member, in memory, complete. No time to live, no result cache, no
//! read-through. Reading takes no lock; one task writes. A personal token points at its creator's entry, so one event
//! changes all of a member's tokens at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use cqrs_es::Aggregate;
use domain::access_token::{AccessToken, AccessTokenEvent};
use domain::authorization::{Answer, Question, Reason, decide_for_member, decide_for_token};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberEvent, Standing};
use domain::organization::OrganizationEvent;
use domain::secret::{Secret, SecretDigest};
use papaya::HashMap;
use projections::log::{Fact, RecordedEvent};
use tokio::sync::watch;

use super::Fence;

/// Who a question is about.
#[derive(Debug)]
pub enum Subject {
    /// Whoever presents this secret.
    Secret(Secret),
    /// A token by its id.
    Token(TokenId),
    /// A member by its id.
    Member(OrganizationId, MemberId),
    /// A member by something that names no member.
    NoMember,
    /// Something that names nobody.
    Unknown,
}

/// Everything that decisions are made from.
#[derive(Debug)]
pub struct Index {
    by_digest: HashMap<SecretDigest, Arc<TokenEntry>>,
    by_id: HashMap<TokenId, Arc<TokenEntry>>,
    members: HashMap<(OrganizationId, MemberId), Arc<MemberEntry>>,
    position: watch::Sender<i64>,
    /// Whether this node may vouch for what it knows.
    fence: Fence,
}

#[derive(Debug)]
struct TokenEntry {
    token: ArcSwap<AccessToken>,
    creator: Arc<MemberEntry>,
    organization_id: OrganizationId,
}

#[derive(Debug, Default)]
struct MemberEntry {
    /// The member, and the last sequence of its stream that it holds.
    member: ArcSwap<(Arc<Member>, i64)>,
    standing: ArcSwap<Standing>,
    /// Its organization was removed, and it has not been added since.
    ended: AtomicBool,
}

impl MemberEntry {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn changed(&self) {
        let mut standing = self.member.load().0.standing();
        standing.is_member &= !self.has_ended();
        self.standing.store(Arc::new(standing));
    }
}

impl Index {
    /// An empty index behind this fence.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self {
            by_digest: HashMap::new(),
            by_id: HashMap::new(),
            members: HashMap::new(),
            position: watch::Sender::new(0),
            fence,
        }
    }

    /// Answers a question, and hands the answer with the position it is at least true at to `answer`: it borrows from the
    /// index. Denies where this node can't vouch that it knows the log up to now, or has not reached `at_least`.
    pub fn decide<T>(
        &self,
        subject: &Subject,
        question: &Question<'_>,
        at_least: i64,
        answer: impl FnOnce(i64, Answer<'_>) -> T,
    ) -> T {
        // Before anything is looked up: what is found can only be newer.
        let position = self.position();
        if position < at_least {
            return answer(position, Reason::StaleReplica.into());
        }
        match subject {
            Subject::Secret(secret) => {
                let digest = secret.digest();
                let entry = self.by_digest.pin().get(&digest).cloned();
                self.decide_for_entry(entry.as_deref(), Some(&digest), question, position, answer)
            }
            Subject::Token(token_id) => {
                let entry = self.by_id.pin().get(token_id).cloned();
                self.decide_for_entry(entry.as_deref(), None, question, position, answer)
            }
            Subject::Member(organization_id, member_id) => {
                let standing = self.standing(*organization_id, *member_id);
                let found = decide_for_member(&standing, *organization_id, question);
                self.vouch(position, found, answer)
            }
            Subject::NoMember => self.vouch(position, Reason::CreatorNotAMember.into(), answer),
            Subject::Unknown => self.vouch(position, Reason::UnknownToken.into(), answer),
        }
    }

    fn decide_for_entry<T>(
        &self,
        entry: Option<&TokenEntry>,
        presented: Option<&SecretDigest>,
        question: &Question<'_>,
        position: i64,
        answer: impl FnOnce(i64, Answer<'_>) -> T,
    ) -> T {
        let Some(entry) = entry else {
            return self.vouch(position, Reason::UnknownToken.into(), answer);
        };
        let token = entry.token.load();
        let creator = entry.creator.standing.load();
        let found = decide_for_token(&token, presented, &creator, question);
        self.vouch(position, found, answer)
    }

    /// The clock is read after the decision is made: a node that stood still in between does not vouch for it.
    fn vouch<T>(&self, position: i64, found: Answer<'_>, answer: impl FnOnce(i64, Answer<'_>) -> T) -> T {
        if self.fence.is_open() {
            answer(position, found)
        } else {
            answer(position, Reason::StaleReplica.into())
        }
    }

    /// What is known of a member; of somebody unknown, that it is no member.
    #[must_use]
    pub fn standing(&self, organization_id: OrganizationId, member_id: MemberId) -> Arc<Standing> {
        match self.members.pin().get(&(organization_id, member_id)) {
            Some(entry) => entry.standing.load_full(),
            None => Arc::default(),
        }
    }

    /// The member itself, for the rules of management, and the last sequence of its stream that it holds.
    #[must_use]
    pub fn member(&self, organization_id: OrganizationId, member_id: MemberId) -> Option<(Arc<Member>, i64)> {
        let pinned = self.members.pin();
        let entry = pinned.get(&(organization_id, member_id))?;
        let is_member = entry.standing.load().is_member;
        is_member.then(|| {
            let (member, sequence) = &**entry.member.load();
            (Arc::clone(member), *sequence)
        })
    }

    /// The last position applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        *self.position.borrow()
    }

    /// Waits until a position is applied; false where it was not in time.
    pub async fn reached(&self, position: i64, patience: Duration) -> bool {
        let mut seen = self.position.subscribe();
        let reached = seen.wait_for(|applied| *applied >= position);
        matches!(tokio::time::timeout(patience, reached).await, Ok(Ok(_)))
    }

    /// Whether this node may decide now. Only the tailer opens and closes it.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Forgets everything, to be fed from the beginning of another log. Only the tailer calls this, behind a closed fence.
    pub(super) fn clear(&self) {
        self.by_digest.pin().clear();
        self.by_id.pin().clear();
        self.members.pin().clear();
        self.position.send_replace(0);
    }

    /// Takes the next events of the log. Only the tailer calls this, one stretch after the other.
    ///
    /// Until the whole stretch is taken the position stays behind, so an answer in between is at least as new as it says.
    pub(super) fn apply(&self, events: &[RecordedEvent]) {
        // What a member may do is worked out once for a row of its events, not after each of them: a long history would be
        // folded too often. But before anything else is taken, so that nothing overtakes it.
        let mut changed = BTreeMap::new();
        for event in events {
            if !matches!(event.fact, Fact::Member(_)) {
                work_out(&mut changed);
            }
            match &event.fact {
                Fact::AccessToken(fact) => self.apply_to_token(event, fact),
                Fact::Member(fact) => {
                    changed.insert(fact.subject(), self.apply_to_member(event.sequence, fact));
                }
                Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                    self.remove_organization(*organization_id);
                }
            }
        }
        work_out(&mut changed);
        if let Some(last) = events.last() {
            self.position.send_replace(last.position);
        }
    }

    fn apply_to_token(&self, event: &RecordedEvent, fact: &AccessTokenEvent) {
        if let AccessTokenEvent::Created(created) = fact {
            let creator = self.member_entry(created.organization_id, created.creator_id);
            let mut token = AccessToken::default();
            token.apply(fact.clone());
            let entry = Arc::new(TokenEntry {
                // Made in the moment after its organization was removed: the reactor's word for it is on its way.
                token: ArcSwap::from_pointee(if creator.has_ended() {
                    removed(token)
                } else {
                    token
                }),
                creator,
                organization_id: created.organization_id,
            });
            self.by_id.pin().insert(created.token_id, Arc::clone(&entry));
            self.by_digest.pin().insert(created.digest, entry);
            return;
        }
        let Ok(token_id) = event.aggregate_id.parse::<TokenId>() else {
            return;
        };
        if let Some(entry) = self.by_id.pin().get(&token_id) {
            let before = entry.token.load_full();
            let mut token = AccessToken::clone(&before);
            token.apply(fact.clone());
            let after = Arc::new(token);
            entry.token.store(Arc::clone(&after));
            if matches!(fact, AccessTokenEvent::SecretRotated { .. }) {
                self.find_by_other_secrets(entry, &before, &after);
            }
        }
    }

    /// The token already refuses the secrets that have ended; here they are forgotten.
    fn find_by_other_secrets(&self, entry: &Arc<TokenEntry>, before: &AccessToken, after: &AccessToken) {
        let by_digest = self.by_digest.pin();
        let digests = |token: &AccessToken| -> Vec<SecretDigest> {
            token
                .live()
                .map_or_else(Vec::new, |token| token.secrets.digests().collect())
        };
        let (before, after) = (digests(before), digests(after));
        for digest in &after {
            by_digest.insert(*digest, Arc::clone(entry));
        }
        for ended in before.iter().filter(|digest| !after.contains(digest)) {
            by_digest.remove(ended);
        }
    }

    fn apply_to_member(&self, sequence: i64, fact: &MemberEvent) -> Arc<MemberEntry> {
        let (organization_id, member_id) = fact.subject();
        let entry = self.member_entry(organization_id, member_id);
        if matches!(fact, MemberEvent::Added { .. }) {
            entry.ended.store(false, Ordering::Relaxed);
        }
        let mut member = Member::clone(&entry.member.load().0);
        member.apply(fact.clone());
        entry.member.store(Arc::new((Arc::new(member), sequence)));
        entry
    }

    fn remove_organization(&self, organization_id: OrganizationId) {
        for (_, entry) in self
            .by_id
            .pin()
            .iter()
            .filter(|(_, entry)| entry.organization_id == organization_id)
        {
            entry
                .token
                .store(Arc::new(removed(AccessToken::clone(&entry.token.load()))));
        }
        for ((_, _), entry) in self
            .members
            .pin()
            .iter()
            .filter(|((of, _), _)| *of == organization_id)
        {
            entry.ended.store(true, Ordering::Relaxed);
            entry.changed();
        }
    }

    fn member_entry(&self, organization_id: OrganizationId, member_id: MemberId) -> Arc<MemberEntry> {
        Arc::clone(
            self.members
                .pin()
                .get_or_insert_with((organization_id, member_id), Arc::default),
        )
    }
}

/// Works out what these members may do now, and forgets that they have changed.
fn work_out(changed: &mut BTreeMap<(OrganizationId, MemberId), Arc<MemberEntry>>) {
    for entry in std::mem::take(changed).into_values() {
        entry.changed();
    }
}

fn removed(token: AccessToken) -> AccessToken {
    match token {
        AccessToken::Live(token) => AccessToken::Removed(token),
        AccessToken::Unknown | AccessToken::Removed(_) => token,
    }
}
