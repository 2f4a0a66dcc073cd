//! Coverage: whether a member's permission covers the statements of a service token it wants to make or arm.
//!
//! Sound, not complete: a yes means that the member may do, now, whatever the token may do; a no may be a token that
//! could have been shown to be covered by a finer argument (by two allows together, say).
//!
//! The argument. Cut every statement into reaches, one action on one pattern each. Whatever a token allows lies in a reach
//! of one of its allows. That reach lies in an allow of the member, so the member's statement matches too; and it is
//! met by no deny of the member and by no revocation newer than that allow, other than those that lie in a deny of the
//! token, where the token allows nothing.

use super::{Action, Effect, Entry, Permission, ResourcePattern, Statement};

/// One action on one pattern. `None` is every action, and every resource, even one with an empty name, which no pattern
/// matches: so no pattern contains it.
#[derive(Clone, Copy)]
struct Reach<'a> {
    action: Option<&'a Action>,
    pattern: Option<&'a ResourcePattern>,
}

/// A reach in which the member may not do what it was allowed to do by entries before this index.
#[derive(Clone, Copy)]
struct Obstacle<'a> {
    reach: Reach<'a>,
    allows_before: usize,
}

impl Permission {
    /// Whether every action on every resource that these statements allow is allowed by this permission. True only if
    /// that can be shown.
    pub fn covers(&self, statements: &[Statement]) -> bool {
        let carried = |obstacle: &Obstacle<'_>| {
            statements
                .iter()
                .any(|statement| statement.effect == Effect::Deny && contains(statement, obstacle.reach))
        };
        let obstacles: Vec<_> = self.obstacles().filter(|obstacle| !carried(obstacle)).collect();
        let allows = statements
            .iter()
            .filter(|statement| statement.effect == Effect::Allow);
        allows
            .flat_map(reaches)
            .all(|reach| self.grants(reach, &obstacles))
    }

    /// Whether one allow alone contains the reach, and nothing that stands against that allow overlaps it.
    fn grants(&self, reach: Reach<'_>, obstacles: &[Obstacle<'_>]) -> bool {
        self.entries().iter().enumerate().any(|(index, entry)| {
            let stands = |obstacle: &Obstacle<'_>| index < obstacle.allows_before && obstacle.reach.overlaps(reach);
            matches!(entry, Entry::Statement(statement) if statement.effect == Effect::Allow && contains(statement, reach))
                && !obstacles.iter().any(stands)
        })
    }

    /// Denies, which stand against every allow, and revocations, which stand against earlier ones.
    fn obstacles(&self) -> impl Iterator<Item = Obstacle<'_>> {
        self.entries().iter().enumerate().flat_map(|(index, entry)| {
            let (statement, revocation) = match entry {
                Entry::Statement(statement) => (Some(statement).filter(|it| it.effect == Effect::Deny), None),
                Entry::Revocation(revocation) => (None, Some(revocation)),
            };
            let denied = statement.into_iter().flat_map(reaches);
            let denied = denied.map(|reach| Obstacle {
                reach,
                allows_before: usize::MAX,
            });
            let taken = revocation
                .into_iter()
                .flat_map(|it| on_each(&it.permission, it.resources.as_deref()));
            denied.chain(taken.map(move |reach| Obstacle {
                reach,
                allows_before: index,
            }))
        })
    }
}

impl Reach<'_> {
    /// Never misses an overlap.
    fn overlaps(&self, other: Reach<'_>) -> bool {
        let actions = self
            .action
            .zip(other.action)
            .is_none_or(|(one, other)| one.overlaps(other));
        let patterns = self
            .pattern
            .zip(other.pattern)
            .is_none_or(|(one, other)| one.overlaps(other));
        actions && patterns
    }
}

/// Whether a statement matches wherever the reach does. True only if that can be shown.
fn contains(statement: &Statement, reach: Reach<'_>) -> bool {
    statement.is_about_everything()
        || reach
            .action
            .zip(reach.pattern)
            .is_some_and(|(inner_action, inner_pattern)| {
                statement.actions.iter().any(|action| action.covers(inner_action))
                    && statement
                        .resources
                        .iter()
                        .any(|pattern| pattern.contains(inner_pattern))
            })
}

/// What a statement is about, in parts. One about everything is everything first; the parts it may also name lie in
/// that, so they change no answer.
fn reaches(statement: &Statement) -> impl Iterator<Item = Reach<'_>> {
    let everything = statement.is_about_everything().then_some(Reach {
        action: None,
        pattern: None,
    });
    let parts = statement
        .actions
        .iter()
        .flat_map(|action| on_each(action, Some(&statement.resources)));
    everything.into_iter().chain(parts)
}

/// The action on each of the patterns; without patterns, everywhere.
fn on_each<'a>(
    action: &'a Action,
    patterns: Option<&'a [ResourcePattern]>,
) -> impl Iterator<Item = Reach<'a>> {
    let on = move |pattern| Reach {
        action: Some(action),
        pattern,
    };
    let everywhere = patterns.is_none().then_some(on(None));
    let on_patterns = patterns
        .unwrap_or_default()
        .iter()
        .map(move |pattern| on(Some(pattern)));
    everywhere.into_iter().chain(on_patterns)
}

#[cfg(test)]
mod tests {
    use super::super::{Revocation, built_in};
    use super::*;

    fn statement(effect: Effect, actions: &[&str], resources: &[&str]) -> Statement {
        Statement {
            id: None,
            resource_type: "flag".to_owned(),
            effect,
            actions: actions.iter().copied().map(Action::new).collect(),
            resources: resources.iter().copied().map(ResourcePattern::new).collect(),
        }
    }

    fn allow(actions: &[&str], resources: &[&str]) -> Statement {
        statement(Effect::Allow, actions, resources)
    }

    fn deny(actions: &[&str], resources: &[&str]) -> Statement {
        statement(Effect::Deny, actions, resources)
    }

    fn everything(effect: Effect) -> Statement {
        Statement {
            resource_type: "*".to_owned(),
            ..statement(effect, &[], &[])
        }
    }

    fn permission(statements: Vec<Statement>) -> Permission {
        Permission::from_statements(statements)
    }

    fn revocation(permission: &str, resources: Option<&[&str]>) -> Entry {
        let patterns = |resources: &[&str]| resources.iter().copied().map(ResourcePattern::new).collect();
        Entry::Revocation(Revocation {
            permission: Action::new(permission),
            resources: resources.map(patterns),
        })
    }

    #[test]
    fn an_owner_covers_anything() {
        let owner = permission(built_in::owner());
        assert!(owner.covers(&[everything(Effect::Allow)]));
        assert!(owner.covers(&[
            allow(&["*"], &["*", ""]),
            allow(&["ManageFeatureFlag", "Made.Up"], &["x", ":;,"])
        ]));
        assert!(owner.covers(&built_in::administrator()));
        assert!(owner.covers(&[]));
    }

    #[test]
    fn a_developer_covers_flags_and_nothing_above_them() {
        let developer = permission(built_in::developer());
        assert!(developer.covers(&[allow(&["ToggleFlag"], &["project/web:env/prod:flag/*"])]));
        assert!(developer.covers(&built_in::developer()));
        assert!(!developer.covers(&[allow(&["CanManageIAM"], &["iam/*"])]));
        assert!(
            !developer.covers(&[allow(&["ToggleFlag"], &["project/*"])]),
            "a project holds more than its flags"
        );
        assert!(!developer.covers(&[everything(Effect::Allow)]));
        assert!(!permission(vec![]).covers(&built_in::developer()));
    }

    /// Tried: `covers` with `any` for `all`; `contains` without its actions and without its patterns.
    #[test]
    fn every_part_of_every_statement_has_to_be_covered() {
        let developer = permission(built_in::developer());
        let flags = "project/web:env/prod:flag/*";
        assert!(!developer.covers(&[
            allow(&["ToggleFlag"], &[flags]),
            allow(&["ToggleFlag"], &["iam/*"])
        ]));
        assert!(!developer.covers(&[allow(&["ToggleFlag"], &[flags, "iam/*"])]));
        let toggler = permission(vec![allow(&["ToggleFlag"], &[flags])]);
        assert!(!toggler.covers(&[allow(&["ToggleFlag", "DeleteFlag"], &[flags])]));
        assert!(!toggler.covers(&[allow(&["*"], &[flags])]));
    }

    #[test]
    fn only_everything_covers_everything() {
        let all_names = permission(vec![allow(&["*"], &["*"])]);
        assert!(
            !all_names.covers(&[everything(Effect::Allow)]),
            "no pattern matches an empty name"
        );
        assert!(permission(vec![everything(Effect::Allow)]).covers(&[allow(&["*"], &["*"])]));
    }

    #[test]
    fn a_token_that_allows_nothing_is_covered_by_anybody() {
        let nobody = permission(vec![]);
        assert!(nobody.covers(&[]));
        assert!(nobody.covers(&[allow(&[], &["*"]), allow(&["*"], &[])]));
        assert!(nobody.covers(&[everything(Effect::Deny)]));
    }

    /// Tried: without the member's denies among the obstacles (the first assertion fails), without `carried` (the second),
    /// `contains` without its actions (the third) and without its patterns (the fourth), `carried` by an allow too (the
    /// first), `overlaps` without its patterns or its actions (the last two).
    #[test]
    fn a_deny_of_the_member_stands_unless_the_token_carries_it() {
        let production = "project/*:env/prod:flag/*";
        let member = permission(vec![
            allow(&["*"], &["project/*:env/*:flag/*"]),
            deny(&["ToggleFlag"], &[production]),
        ]);
        let token = allow(&["ToggleFlag"], &["project/*:env/*:flag/*"]);
        assert!(!member.covers(std::slice::from_ref(&token)));
        assert!(member.covers(&[token.clone(), deny(&["ToggleFlag"], &[production])]));
        assert!(!member.covers(&[token.clone(), deny(&["DeleteFlag"], &[production])]));
        assert!(!member.covers(&[
            token.clone(),
            deny(&["ToggleFlag"], &["project/web:env/prod:flag/*"])
        ]));
        assert!(
            member.covers(&[token.clone(), deny(&["*"], &["project/*:env/prod"])]),
            "a wider deny will do"
        );
        assert!(member.covers(&[token, everything(Effect::Deny)]));
        assert!(
            member.covers(&[allow(&["ToggleFlag"], &["project/*:env/dev:flag/*"])]),
            "no flag is in both"
        );
        assert!(
            member.covers(&[allow(&["DeleteFlag"], &["project/*:env/*:flag/*"])]),
            "no action is both"
        );
    }

    /// Tried: `grants` by a statement of any effect.
    #[test]
    fn a_deny_grants_nothing_even_where_the_token_carries_it() {
        let forbidden = deny(&["*"], &["project/*"]);
        assert!(!permission(vec![forbidden.clone()]).covers(&[allow(&["*"], &["project/*"]), forbidden]));
    }

    /// A flag may carry both tags, so the tags of a deny and of a token never keep them apart. Tried: `overlaps` of
    /// patterns that compares tags.
    #[test]
    fn other_tags_are_no_way_around_a_deny() {
        let member = permission(vec![
            allow(&["*"], &["*"]),
            deny(&["*"], &["project/*:env/*:flag/*;frozen"]),
        ]);
        assert!(!member.covers(&[allow(&["ToggleFlag"], &["project/*:env/*:flag/*;beta"])]));
    }

    #[test]
    fn a_deny_of_everything_stands_against_everything() {
        let member = permission(vec![allow(&["*"], &["*"]), everything(Effect::Deny)]);
        assert!(!member.covers(&[allow(&["ToggleFlag"], &["project/web"])]));
        assert!(!member.covers(&[allow(&["ToggleFlag"], &["project/web"]), deny(&["*"], &["*"])]));
        assert!(member.covers(&[allow(&["ToggleFlag"], &["project/web"]), everything(Effect::Deny)]));
    }

    /// Tried: without revocations among the obstacles, with `allows_before` of 0 (never) and of `usize::MAX` (always).
    #[test]
    fn a_revocation_stands_against_earlier_allows_only() {
        let (flags, taken) = (
            allow(&["*"], &["project/*"]),
            revocation("ToggleFlag", Some(&["project/web"])),
        );
        let (flags_before, flags_after) = (Entry::Statement(flags.clone()), Entry::Statement(flags));
        let before = Permission::new(vec![flags_before.clone(), taken.clone()]);
        let token = allow(&["ToggleFlag"], &["project/*"]);
        assert!(!before.covers(std::slice::from_ref(&token)));
        assert!(before.covers(&[allow(&["ToggleFlag"], &["project/api"])]));
        assert!(before.covers(&[allow(&["DeleteFlag"], &["project/*"])]));
        assert!(before.covers(&[token.clone(), deny(&["ToggleFlag"], &["project/web"])]));
        assert!(
            Permission::new(vec![taken.clone(), flags_after.clone()]).covers(std::slice::from_ref(&token))
        );
        assert!(
            Permission::new(vec![flags_before.clone(), taken, flags_after])
                .covers(std::slice::from_ref(&token))
        );
        let everywhere = Permission::new(vec![flags_before, revocation("ManageFeatureFlag", None)]);
        assert!(!everywhere.covers(std::slice::from_ref(&token)));
        assert!(
            !everywhere.covers(&[token, deny(&["ManageFeatureFlag"], &["*"])]),
            "an empty name is in no pattern"
        );
    }

    #[test]
    fn a_group_name_is_covered_by_itself_and_by_every_action() {
        let member = permission(vec![allow(&["ManageFeatureFlag"], &["project/*"])]);
        assert!(member.covers(&[allow(&["ManageFeatureFlag"], &["project/web"])]));
        assert!(
            !member.covers(&[allow(&["ToggleFlag"], &["project/web:env/prod:flag/*"])]),
            "could not be shown"
        );
        let denied = permission(vec![
            allow(&["*"], &["*"]),
            deny(&["ManageFeatureFlag"], &["project/web"]),
        ]);
        assert!(!denied.covers(&[allow(&["ToggleFlag"], &["project/*"])]));
    }
}
