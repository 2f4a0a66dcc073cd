//! Rules that many have in common, kept once: a million tokens with the same policy hold one set of compiled statements.

use std::collections::HashSet;
use std::sync::Arc;

use domain::policy::{Granted, Rules};

/// So many are kept before it is first looked whether they are still in use.
const FIRST_SWEEP: usize = 1024;

/// Every set of rules that somebody holds. Only the writer of an index uses this.
#[derive(Debug)]
pub(super) struct SharedRules {
    known: HashSet<Arc<Rules>>,
    sweep_at: usize,
}

impl Default for SharedRules {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl SharedRules {
    /// Lets a permission hold the rules that others hold, where they are equal.
    pub(super) fn share(&mut self, granted: &mut Granted) {
        let shared = self.shared(granted.rules());
        granted.share(&shared);
    }

    /// Rules that are equal to these, and the same for all.
    pub(super) fn shared(&mut self, rules: &Arc<Rules>) -> Arc<Rules> {
        if let Some(known) = self.known.get(rules) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|rules| Arc::strong_count(rules) > 1);
            self.sweep_at = self.known.len().saturating_mul(2).max(FIRST_SWEEP);
        }
        self.known.insert(Arc::clone(rules));
        Arc::clone(rules)
    }

    /// How many sets of rules are kept.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use domain::policy::{Action, Effect, Permission, ResourcePattern, Statement};

    use super::*;

    fn granted(id: &str, action: &str) -> Granted {
        Granted::new(Permission::from_statements(vec![Statement {
            id: Some(id.to_owned()),
            resource_type: "flag".to_owned(),
            effect: Effect::Allow,
            actions: vec![Action::new(action)],
            resources: vec![ResourcePattern::new("project/*:env/*:flag/*")],
        }]))
    }

    /// A thing of its own for each token would be a thousand times the memory. Tried: with nothing shared.
    #[test]
    fn a_thousand_permissions_that_differ_by_ids_alone_are_one() {
        let mut shared = SharedRules::default();
        let all: Vec<Granted> = (0..1000)
            .map(|number| {
                let mut one = granted(&format!("statement {number}"), "ToggleFlag");
                shared.share(&mut one);
                one
            })
            .collect();
        assert_eq!(shared.len(), 1);
        assert!(all.iter().all(|one| Arc::ptr_eq(one.rules(), all[0].rules())));
        assert_eq!(
            all[7].permission(),
            granted("statement 7", "ToggleFlag").permission()
        );
    }

    /// Tried: without the sweep, and with one that forgets what is in use.
    #[test]
    fn rules_that_nobody_holds_any_more_are_forgotten() {
        let mut shared = SharedRules::default();
        let mut kept = granted("kept", "kept");
        shared.share(&mut kept);
        for number in 0..10 * FIRST_SWEEP {
            shared.share(&mut granted("gone", &format!("action {number}")));
        }
        assert!(shared.len() <= FIRST_SWEEP + 1, "{}", shared.len());
        let mut again = granted("again", "kept");
        shared.share(&mut again);
        assert!(Arc::ptr_eq(kept.rules(), again.rules()));
    }
}
