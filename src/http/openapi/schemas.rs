//! Shapes of answers that have no type of their own, and what schemas are made of.
#![expect(
    dead_code,
    reason = "most of these types are never made: the derive reads their fields"
)]

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// FeatBit's envelope around what was asked for.
#[derive(ToSchema)]
pub(in crate::http) struct Success<T> {
    #[schema(schema_with = always_true)]
    success: bool,
    #[schema(max_items = 0, example = json!([]))]
    errors: Vec<String>,
    data: T,
}

/// What a command answers that has nothing else to say.
#[derive(ToSchema)]
pub(in crate::http) struct Done {
    #[schema(schema_with = always_true)]
    success: bool,
    #[schema(max_items = 0, example = json!([]))]
    errors: Vec<String>,
    #[schema(schema_with = always_true)]
    data: bool,
}

/// An OpenAPI document.
#[derive(ToSchema)]
pub(in crate::http) struct Document {
    openapi: String,
    info: Value,
    paths: Value,
    components: Value,
}

/// Allows or denies some actions on some resources.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({
    "id": "546ece40-c381-4f94-89f2-4f30a71aea4d", "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"],
    "resources": ["project/web:env/prod:flag/*"],
}))]
pub(in crate::http) struct Statement {
    /// Absent in what some producers of membership events send.
    id: Option<String>,
    /// `*`: the statement is about everything, its actions and resources are not looked at. Any other is a label.
    resource_type: String,
    #[schema(schema_with = effect)]
    effect: String,
    /// Permissions, as `ToggleFlag`; `*` is all of them.
    actions: Vec<String>,
    /// Patterns of resource names, as `project/web:env/*:flag/*`.
    resources: Vec<String>,
}

/// How the node is.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Readiness {
    #[schema(schema_with = readiness)]
    status: String,
    /// Why it is not ready.
    reasons: Vec<String>,
    /// The last position that decisions know.
    #[schema(minimum = 0)]
    position: i64,
    /// The last position that each read model holds.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    read_models: Value,
    /// How the membership intake is, in words.
    intake: String,
    /// Membership messages that could not be used; null where the database does not answer. They make no node unready.
    #[schema(required = true)]
    parked_messages: Option<i64>,
    /// What an operator should know of; it makes no node unready.
    warnings: Vec<String>,
}

/// It answers.
#[derive(ToSchema)]
pub(in crate::http) struct Liveness {
    #[schema(schema_with = alive)]
    status: String,
}

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub(super) fn text_or_null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

pub(super) fn one_of<const N: usize>(words: [&str; N]) -> ObjectBuilder {
    text().enum_values(Some(words))
}

pub(in crate::http) fn token_type() -> Schema {
    one_of(["Personal", "Service"]).into()
}

pub(in crate::http) fn status() -> Schema {
    one_of(["Active", "Inactive"])
        .description(Some(
            "Whether it can be used: `Inactive` too where its creator has left or its time has passed.",
        ))
        .into()
}

pub(in crate::http) fn inactive_reason() -> Schema {
    text_or_null()
        .enum_values(Some([
            Value::from("by_member"),
            Value::from("creator_removed"),
            Value::from("expired"),
            Value::Null,
        ]))
        .description(Some("Why it is `Inactive`."))
        .into()
}

pub(in crate::http) fn ref_type() -> Schema {
    one_of(["access_token", "member", "organization"]).into()
}

/// The reasons for which a token can't be used at all, or null.
pub(in crate::http) fn unusable() -> Schema {
    text_or_null()
        .enum_values(Some([
            Value::from("token_removed"),
            Value::from("token_expired"),
            Value::from("member_blocked"),
            Value::from("creator_not_a_member"),
            Value::from("token_inactive"),
            Value::Null,
        ]))
        .into()
}

pub(in crate::http) fn effect() -> Schema {
    one_of(["allow", "deny"]).into()
}

pub(in crate::http) fn source() -> Schema {
    one_of(["token", "member", "scope"]).into()
}

pub(in crate::http) fn stale() -> Schema {
    one_of(["stale_replica"]).into()
}

fn readiness() -> Schema {
    one_of(["ready", "not ready"]).into()
}

fn alive() -> Schema {
    one_of(["alive"]).into()
}

pub(in crate::http) fn always_true() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([true]))
        .into()
}
