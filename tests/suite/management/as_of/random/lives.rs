//! Lives to be lived: two members who come, go, gain and lose permission, and what they try with their tokens.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Positions looked at in each life, for each token, besides those that were the head.
const LOOKS: usize = 6;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Member {
        who: usize,
        kind: &'static str,
        data: Value,
        late_by: i64,
    },
    OrganizationRemoved,
    Create {
        who: usize,
        body: Value,
    },
    Token {
        who: usize,
        which: usize,
        action: &'static str,
    },
    Expire {
        which: usize,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) is_versioned: bool,
    pub(super) steps: Vec<Step>,
    pub(super) looks: Vec<prop::sample::Index>,
}

fn statement() -> impl Strategy<Value = Value> {
    let id = select(&[None, Some("a"), Some("b")][..]);
    let effect = prop_oneof![4 => Just("allow"), 1 => Just("deny")];
    let resource_type = prop_oneof![8 => Just("flag"), 1 => Just("*")];
    (id, effect, resource_type, action(), vec(pattern(), 1..=2)).prop_map(
        |(id, effect, resource_type, action, resources)| {
            let mut statement = json!({ "resourceType": resource_type, "effect": effect, "actions": [action], "resources": resources });
            if let Some(id) = id {
                statement["id"] = json!(id);
            }
            statement
        },
    )
}

fn action() -> impl Strategy<Value = &'static str> {
    select(&["ToggleFlag", "DeleteFlag", "*", "ManageFeatureFlag"][..])
}

fn pattern() -> impl Strategy<Value = &'static str> {
    select(&["*", "project/*:env/prod:flag/*", "project/*:env/dev", FLAG][..])
}

/// With permission to make tokens, or nothing would ever happen.
fn full_state() -> impl Strategy<Value = Value> {
    vec(statement(), 0..=3).prop_map(|mut statements| {
        let actions = ["ManagePersonalAccessTokens", "ManageServiceAccessTokens"];
        statements.push(
            json!({ "id": "manage", "resourceType": "access-token", "effect": "allow", "actions": actions,
                                "resources": ["access-token/*"] }),
        );
        json!({ "name": "Mia", "email": "mia@tests.example", "statements": statements })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..2_usize;
    let late_by = || prop_oneof![3 => Just(0), 1 => 0..30_i64];
    let member = move |kind: &'static str, data: BoxedStrategy<Value>| {
        (who(), data, late_by()).prop_map(move |(who, data, late_by)| Step::Member {
            who,
            kind,
            data,
            late_by,
        })
    };
    let granted = vec(statement(), 0..=2).prop_map(|statements| json!({ "statements": statements }));
    let revoked =
        (action(), proptest::option::of(vec(pattern(), 0..=2))).prop_map(|(permission, resources)| {
            match resources {
                None => json!({ "permission": permission }),
                Some(resources) => json!({ "permission": permission, "resources": resources }),
            }
        });
    let narrowing = vec(statement(), 0..=1);
    let personal =
        narrowing.prop_map(|permissions| json!({ "type": "Personal", "permissions": permissions }));
    let service = vec(statement(), 1..=2)
        .prop_map(|permissions| json!({ "type": "Service", "permissions": permissions }));
    let body = prop_oneof![2 => personal.boxed(), 1 => service.boxed()];
    let action = select(&["activate", "deactivate", "toggle", "delete"][..]);
    prop_oneof![
        3 => member("MemberAdded", full_state().boxed()),
        4 => member("PermissionGranted", granted.boxed()),
        5 => member("PermissionRevoked", revoked.boxed()),
        2 => member("PermissionsReplaced", full_state().boxed()),
        2 => member("MemberRemoved", Just(json!({})).boxed()),
        1 => member("Nonsense", Just(json!({})).boxed()),
        1 => Just(Step::OrganizationRemoved),
        8 => (who(), body).prop_map(|(who, body)| Step::Create { who, body }),
        6 => (who(), 0..4_usize, action).prop_map(|(who, which, action)| Step::Token { who, which, action }),
        1 => (0..4_usize).prop_map(|which| Step::Expire { which }),
    ]
}

pub(super) fn life() -> impl Strategy<Value = Life> {
    let looks = vec(any::<prop::sample::Index>(), LOOKS);
    (any::<bool>(), vec(step(), STEPS), looks).prop_map(|(is_versioned, steps, looks)| Life {
        is_versioned,
        steps,
        looks,
    })
}
