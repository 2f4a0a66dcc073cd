//! The authorization index: who may do what, answered from memory, complete. No time to live, no result cache, no
//! read-through. Reading takes no lock and allocates nothing; one task writes. A personal token points at its creator's
//! entry, so one event changes all of a member's tokens at once.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use domain::access_token::TokenType;
use domain::authorization::{Answer, Question, Reason, decide_for_member, decide_for_token};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::Member;
use domain::secret::SecretDigest;
use projections::log::RecordedEvent;
use tokio::sync::watch;

use super::Fence;
use super::contents::{Contents, OrganizationEntry, TokenEntry};
use crate::log::TokenCount;

/// Who a question is about.
#[derive(Debug)]
pub enum Subject {
    /// Whoever presents the secret of this digest.
    Secret(SecretDigest),
    /// A token by its id.
    Token(TokenId),
    /// A member by its id.
    Member(OrganizationId, MemberId),
    /// A member by something that names no member.
    NoMember,
    /// Something that names nobody.
    Unknown,
}

/// The token that a question was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Which.
    pub token_id: TokenId,
    /// Personal or service.
    pub token_type: TokenType,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// The member who made it.
    pub creator_id: MemberId,
    /// From this time on it can't be used.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a node decides from, and whether it may.
#[derive(Debug)]
pub struct Index {
    /// Replaced as one where the node has to start over.
    contents: ArcSwap<Contents>,
    /// The same position as the contents', for those who wait.
    reached: watch::Sender<i64>,
    /// Whether this node may vouch for what it knows.
    fence: Fence,
}

impl Index {
    /// An empty index behind this fence.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self {
            contents: ArcSwap::default(),
            reached: watch::Sender::new(0),
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
        self.decide_for_bearer(subject, question, at_least, |position, found, _| {
            answer(position, found)
        })
    }

    /// The same, with the token that was found, for whoever says whose request this is.
    pub fn decide_for_bearer<T>(
        &self,
        subject: &Subject,
        question: &Question<'_>,
        at_least: i64,
        answer: impl FnOnce(i64, Answer<'_>, Option<Bearer>) -> T,
    ) -> T {
        // Both before anything is looked up: what is found can only be newer.
        let pass = self.fence.pass();
        let contents = self.contents.load();
        let position = contents.position();
        if position < at_least {
            return answer(position, Reason::StaleReplica.into(), None);
        }
        let vouch = |found: Answer<'_>, token: Option<(&TokenEntry, Bearer)>| {
            // After the decision is made: a node that stood still in between does not vouch for it.
            if !self.fence.holds(pass) {
                return answer(position, Reason::StaleReplica.into(), None);
            }
            if let Some((entry, _)) = token
                && found.is_allowed()
                && !question.action.is_empty()
            {
                entry.uses.mark(question.now);
            }
            answer(position, found, token.map(|(_, bearer)| bearer))
        };
        match subject {
            Subject::Secret(digest) => {
                let by_digest = contents.by_digest.pin();
                decide_for_entry(by_digest.get(digest), Some(digest), question, vouch)
            }
            Subject::Token(token_id) => {
                let by_id = contents.by_id.pin();
                decide_for_entry(by_id.get(token_id), None, question, vouch)
            }
            Subject::Member(organization_id, member_id) => {
                let members = contents.members.pin();
                let Some(entry) = members.get(&(*organization_id, *member_id)) else {
                    return vouch(Reason::CreatorNotAMember.into(), None);
                };
                let standing = entry.standing.load();
                vouch(decide_for_member(&standing, *organization_id, question), None)
            }
            Subject::NoMember => vouch(Reason::CreatorNotAMember.into(), None),
            Subject::Unknown => vouch(Reason::UnknownToken.into(), None),
        }
    }

    /// The member itself, for the rules of management, and the last sequence of its stream that it holds.
    #[must_use]
    pub fn member(&self, organization_id: OrganizationId, member_id: MemberId) -> Option<(Arc<Member>, i64)> {
        let contents = self.contents.load();
        let members = contents.members.pin();
        let entry = members.get(&(organization_id, member_id))?;
        let is_member = entry.standing.load().is_member;
        is_member.then(|| {
            let (member, sequence) = &**entry.member.load();
            (Arc::clone(member), *sequence)
        })
    }

    /// How many tokens an organization has.
    #[must_use]
    pub fn token_count(&self, organization_id: OrganizationId) -> TokenCount {
        let contents = self.contents.load();
        // First: what was counted in later is then counted twice, not left out.
        let as_of = contents.position();
        TokenCount {
            tokens: contents.token_count(organization_id),
            as_of,
        }
    }

    /// The last position applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.contents.load().position()
    }

    /// Waits until a position is applied; false where it was not in time.
    pub async fn reached(&self, position: i64, patience: Duration) -> bool {
        if self.position() >= position {
            return true;
        }
        let mut seen = self.reached.subscribe();
        let reached = seen.wait_for(|applied| *applied >= position);
        matches!(tokio::time::timeout(patience, reached).await, Ok(Ok(_)))
    }

    /// Whether this node may decide now. Only the tailer opens and closes it.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// All there is, at one moment.
    pub(super) fn contents(&self) -> Arc<Contents> {
        self.contents.load_full()
    }

    /// All organizations, to go through their tokens.
    pub(super) fn organizations(&self) -> Vec<Arc<OrganizationEntry>> {
        self.contents.load().organizations()
    }

    /// How many secrets somebody may be found by.
    #[cfg(test)]
    pub(super) fn secrets(&self) -> usize {
        self.contents.load().by_digest.len()
    }

    /// Takes the next events of the log. Only the tailer calls this, one stretch after the other.
    pub(super) fn apply(&self, events: &[Arc<RecordedEvent>]) {
        let contents = self.contents.load();
        contents.apply(events);
        self.reached.send_replace(contents.position());
    }

    /// Holds this and nothing else from now on, at once. Only the tailer calls this, behind a closed fence.
    pub(super) fn start_over(&self, contents: Contents) {
        let position = contents.position();
        self.contents.store(Arc::new(contents));
        self.reached.send_replace(position);
    }
}

fn decide_for_entry<T>(
    entry: Option<&Arc<TokenEntry>>,
    presented: Option<&SecretDigest>,
    question: &Question<'_>,
    vouch: impl FnOnce(Answer<'_>, Option<(&TokenEntry, Bearer)>) -> T,
) -> T {
    let Some(entry) = entry else {
        return vouch(Reason::UnknownToken.into(), None);
    };
    let token = entry.credential.load();
    let creator = entry.creator.standing.load();
    let bearer = Bearer {
        token_id: entry.id,
        token_type: token.token_type,
        organization_id: entry.creator.organization_id,
        creator_id: entry.creator.member_id,
        expires_at: token.expires_at,
    };
    vouch(
        decide_for_token(&token, presented, &creator, question),
        Some((entry, bearer)),
    )
}
