//! Searches: who may do this, what may somebody do here, and where. Each looks at a subject as it is at one moment, and at no
//! more than so many candidates at once. Nothing that is found counts as used.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::access_token::TokenType;
use domain::authorization::{Credential, Question, decide_for_member, decide_for_token};
use domain::ids::{OrganizationId, TokenId};
use domain::member::Standing;
use domain::policy::{Granted, Statement};
use domain::secret::SecretDigest;

use super::contents::TokenEntry;
use super::{Index, Subject};

/// Candidates that are decided about for one page.
pub const MAX_CANDIDATES: usize = 1000;

/// A subject as it is at one moment.
#[derive(Debug)]
pub struct Seen {
    organization_id: OrganizationId,
    token: Option<(Arc<Credential>, Option<SecretDigest>)>,
    /// The creator's, or the member's own.
    standing: Arc<Standing>,
}

/// Some of the candidates, and the last that was looked at; none where there are no more.
#[derive(Debug, PartialEq)]
pub struct Page<T> {
    /// Those that may.
    pub found: Vec<T>,
    /// After which the next page begins.
    pub last: Option<T>,
}

impl Index {
    /// A subject as it is now; none where it is nobody.
    #[must_use]
    pub fn see(&self, subject: &Subject) -> Option<Seen> {
        let contents = self.contents();
        match subject {
            Subject::Secret(digest) => {
                let by_digest = contents.by_digest.pin();
                by_digest.get(digest).map(|entry| Seen::of(entry, Some(*digest)))
            }
            Subject::Token(token_id) => {
                let by_id = contents.by_id.pin();
                by_id.get(token_id).map(|entry| Seen::of(entry, None))
            }
            Subject::Member(organization_id, member_id) => {
                let members = contents.members.pin();
                let entry = members.get(&(*organization_id, *member_id))?;
                Some(Seen {
                    organization_id: *organization_id,
                    token: None,
                    standing: entry.standing.load_full(),
                })
            }
            Subject::NoMember | Subject::Unknown => None,
        }
    }

    /// The tokens of an organization that may do it, in the order in which they were created, from a place on.
    #[must_use]
    pub fn tokens_that_may(
        &self,
        organization_id: OrganizationId,
        question: &Question<'_>,
        from: usize,
        limit: usize,
    ) -> (Vec<TokenId>, Option<usize>) {
        let contents = self.contents();
        let tokens = contents.tokens_from(organization_id, from, MAX_CANDIDATES.saturating_add(1));
        let mut found = Vec::new();
        for (nth, token) in tokens.iter().enumerate() {
            if nth == MAX_CANDIDATES || found.len() == limit {
                return (found, Some(from.saturating_add(nth)));
            }
            if Seen::of(token, None).may(question) {
                found.push(token.id);
            }
        }
        (found, None)
    }
}

impl Seen {
    fn of(entry: &TokenEntry, presented: Option<SecretDigest>) -> Self {
        Self {
            organization_id: entry.creator.organization_id,
            token: Some((entry.credential.load_full(), presented)),
            standing: entry.creator.standing.load_full(),
        }
    }

    /// May it do this?
    #[must_use]
    pub fn may(&self, question: &Question<'_>) -> bool {
        match &self.token {
            Some((token, presented)) => {
                decide_for_token(token, presented.as_ref(), &self.standing, question).is_allowed()
            }
            None => decide_for_member(&self.standing, self.organization_id, question).is_allowed(),
        }
    }

    /// The actions and the patterns of resources that its statements name. `*` names none: it would say that all of them are
    /// allowed, whatever is denied.
    #[must_use]
    pub fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut actions, mut resources) = (BTreeSet::new(), BTreeSet::new());
        for statement in self.statements() {
            let named = statement
                .actions
                .iter()
                .filter(|action| !action.is_every_action());
            actions.extend(named.map(|action| action.as_str().to_owned()));
            resources.extend(
                statement
                    .resources
                    .iter()
                    .map(|pattern| pattern.as_str().to_owned()),
            );
        }
        (actions, resources)
    }

    fn statements(&self) -> Vec<Statement> {
        let of =
            |granted: &Granted| -> Vec<Statement> { granted.permission().statements().cloned().collect() };
        match &self.token {
            Some((token, _)) if token.token_type == TokenType::Service => of(&token.permission),
            Some((token, _)) => [of(&self.standing.permission), of(&token.permission)].concat(),
            None => of(&self.standing.permission),
        }
    }
}

/// Those of the candidates that may, in their order, after the last one that was looked at.
pub fn page(
    candidates: &BTreeSet<String>,
    after: Option<&str>,
    limit: usize,
    may: impl Fn(&str) -> bool,
) -> Page<String> {
    let mut found = Vec::new();
    let mut last: Option<&String> = None;
    let rest = candidates
        .iter()
        .skip_while(|candidate| after.is_some_and(|after| candidate.as_str() <= after));
    for (nth, candidate) in rest.enumerate() {
        if nth == MAX_CANDIDATES || found.len() == limit {
            return Page {
                found,
                last: last.cloned(),
            };
        }
        if may(candidate) {
            found.push(candidate.clone());
        }
        last = Some(candidate);
    }
    Page { found, last: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tried: without the bound on candidates.
    #[test]
    fn pages_hold_all_that_may_once_and_no_page_looks_at_more_than_it_may() {
        let candidates: BTreeSet<String> = (0..2500).map(|nth| format!("{nth:04}")).collect();
        let may = |candidate: &str| candidate.ends_with("99");
        for limit in [1, 3, 100] {
            let (mut all, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let looked_at = std::cell::Cell::new(0);
                let page = page(&candidates, after.as_deref(), limit, |candidate| {
                    looked_at.set(looked_at.get() + 1);
                    may(candidate)
                });
                assert!(page.found.len() <= limit && looked_at.get() <= MAX_CANDIDATES);
                all.extend(page.found);
                pages += 1;
                after = page.last;
                if after.is_none() {
                    break;
                }
            }
            let expected: Vec<String> = candidates
                .iter()
                .filter(|candidate| may(candidate))
                .cloned()
                .collect();
            assert_eq!(all, expected, "{limit}");
            assert!(pages >= 3, "{pages}");
        }
    }
}
