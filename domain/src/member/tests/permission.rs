//! What a member's statements and revocations come to.

use super::*;

#[test]
fn a_later_grant_replaces_every_earlier_statement_with_its_id() {
    let member = heard(&[
        (1, add(&[flags("a"), deny("a", "*", PROD_FLAGS), flags("b")])),
        (2, grant(&[allow("a", "*", DEV)])),
    ]);
    let expected = vec![flags("b"), allow("a", "*", DEV)];
    assert_eq!(member.permission(), Permission::from_statements(expected));
}

#[test]
fn equal_ids_within_one_fact_are_all_kept_and_so_are_statements_without_id() {
    let anonymous = Statement {
        id: None,
        ..flags("")
    };
    let twice = [flags("a"), deny("a", "*", PROD_FLAGS), anonymous.clone()];
    for fact in [add(&twice), replace(&twice)] {
        let member = heard(&[(1, fact), (2, grant(std::slice::from_ref(&anonymous)))]);
        assert_eq!(member.permission().entries().len(), 4);
    }
    let member = heard(&[(1, add(&[flags("a")])), (2, grant(&twice))]);
    assert_eq!(member.permission(), Permission::from_statements(twice.to_vec()));
}

#[test]
fn a_statement_granted_again_under_its_id_stands_after_the_revocation() {
    let member = heard(&[
        (1, add(&[flags("a")])),
        (2, revoke("*", None)),
        (3, grant(&[flags("a")])),
    ]);
    assert!(toggles(&member, PROD));
}

#[test]
fn a_revocation_masks_earlier_allows_where_it_says_and_no_later_one() {
    let revoked = [
        (1, add(&[flags("a")])),
        (2, revoke("ToggleFlag", Some(&[PROD_FLAGS]))),
    ];
    let member = heard(&revoked);
    assert!(!toggles(&member, PROD));
    assert!(toggles(&member, DEV));
    assert!(member.may("DeleteFlag", PROD), "another action was not taken");
    let entries = vec![
        Entry::Statement(flags("a")),
        Entry::Revocation(revocation("ToggleFlag", Some(&[PROD_FLAGS]))),
    ];
    assert_eq!(member.permission(), Permission::new(entries));
    let member = heard(&[revoked.as_slice(), &[(3, grant(&[flags("b")]))]].concat());
    assert!(toggles(&member, PROD));
}

#[test]
fn a_revocation_leaves_denies_where_they_are() {
    let member = heard(&[
        (1, add(&[flags("a"), deny("d", "ToggleFlag", PROD_FLAGS)])),
        (2, revoke("*", None)),
        (3, grant(&[flags("b")])),
    ]);
    assert!(!toggles(&member, PROD), "denied still");
    assert!(toggles(&member, DEV));
}

/// Tried: with `set` keeping every change.
#[test]
fn a_full_state_wipes_the_statements_and_revocations_before_it() {
    for full_state in [add(&[flags("b")]), replace(&[flags("b")])] {
        let member = heard(&[
            (1, add(&[deny("a", "*", "*")])),
            (2, grant(&[flags("c")])),
            (3, revoke("*", None)),
            (4, full_state),
        ]);
        let expected = Permission::from_statements(vec![flags("b")]);
        assert_eq!(member.permission(), expected);
    }
}
