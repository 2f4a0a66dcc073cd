//! Questions of AuthZEN and the reasons of their answers, for the document. Questions are read field by field in
//! `super::super::evaluation`; their types are never made.
#![expect(dead_code, reason = "their fields are read by the derive only")]

use domain::authorization::Reason;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::super::evaluation::{EvaluationBody, EvaluationsBody};
use super::super::introspection::LiveBody;
use super::schemas::{one_of, text};

/// A question of AuthZEN. Fields that are not named here are ignored.
#[derive(ToSchema)]
#[schema(example = json!({
    "subject": { "type": "access_token", "id": "0192f0c0-5c6c-7277-bcf7-fda94c538785" },
    "action": { "name": "ToggleFlag" },
    "resource": { "type": "flag", "id": "project/web:env/prod:flag/dark-mode;beta" },
    "context": { "ipAddress": "203.0.113.7" },
}))]
pub(in crate::http) struct Evaluation {
    subject: Subject,
    action: Action,
    resource: Resource,
    #[schema(nullable)]
    context: Option<Context>,
}

/// Several questions of AuthZEN, or one.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Evaluations {
    Several(SeveralEvaluations),
    One(Evaluation),
}

/// What stands at the top holds for each that does not say otherwise.
#[derive(ToSchema)]
#[schema(example = json!({
    "subject": { "type": "access_token", "id": "0192f0c0-5c6c-7277-bcf7-fda94c538785" },
    "action": { "name": "ToggleFlag" },
    "options": { "evaluations_semantic": "deny_on_first_deny" },
    "evaluations": [
        { "resource": { "type": "flag", "id": "project/web:env/prod:flag/dark-mode" } },
        { "resource": { "type": "flag", "id": "project/web:env/prod:flag/checkout" } },
    ],
}))]
pub(in crate::http) struct SeveralEvaluations {
    #[schema(nullable)]
    subject: Option<Subject>,
    #[schema(nullable)]
    action: Option<Action>,
    #[schema(nullable)]
    resource: Option<Resource>,
    #[schema(nullable)]
    context: Option<Context>,
    #[schema(nullable)]
    options: Option<Options>,
    #[schema(min_items = 1, max_items = 512)]
    evaluations: Vec<OneOfTheEvaluations>,
}

#[derive(ToSchema)]
pub(in crate::http) struct OneOfTheEvaluations {
    #[schema(nullable)]
    subject: Option<Subject>,
    #[schema(nullable)]
    action: Option<Action>,
    #[schema(nullable)]
    resource: Option<Resource>,
    #[schema(nullable)]
    context: Option<Context>,
}

#[derive(ToSchema)]
pub(in crate::http) struct Options {
    #[schema(schema_with = semantic, required = false)]
    evaluations_semantic: Option<String>,
}

/// The decisions, or the one.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Decided {
    Several(EvaluationsBody),
    One(EvaluationBody<'static>),
}

/// What RFC 7662 asks, and from where the token was presented.
#[derive(ToSchema)]
pub(in crate::http) struct Introspection {
    /// A token's secret; not its id.
    #[schema(min_length = 1)]
    token: String,
    /// The address of whoever presented it. Anything else counts as none.
    #[schema(required = false)]
    ip: Option<String>,
}

/// A live token, or that it is none.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Introspected {
    Live(LiveBody),
    Other(NotLive),
}

#[derive(ToSchema)]
pub(in crate::http) struct NotLive {
    #[schema(schema_with = denied)]
    active: bool,
}

/// AuthZEN's PDP metadata.
#[derive(ToSchema)]
pub(in crate::http) struct Configuration {
    /// Under which URL the service is reached.
    policy_decision_point: String,
    access_evaluation_endpoint: String,
    access_evaluations_endpoint: String,
    search_subject_endpoint: String,
    search_resource_endpoint: String,
    search_action_endpoint: String,
}

/// What may the subject do on the resource?
#[derive(ToSchema)]
pub(in crate::http) struct ActionSearch {
    subject: Subject,
    resource: Resource,
    #[schema(nullable)]
    context: Option<SearchContext>,
    #[schema(nullable)]
    page: Option<Page>,
}

/// On what may the subject do it?
#[derive(ToSchema)]
pub(in crate::http) struct ResourceSearch {
    subject: Subject,
    action: Action,
    resource: ResourceType,
    #[schema(nullable)]
    context: Option<SearchContext>,
    #[schema(nullable)]
    page: Option<Page>,
}

/// Who may do it on the resource?
#[derive(ToSchema)]
pub(in crate::http) struct SubjectSearch {
    subject: SubjectType,
    action: Action,
    resource: ResourceOfOrganization,
    #[schema(nullable)]
    context: Option<SearchContext>,
    #[schema(nullable)]
    page: Option<Page>,
}

/// Resources of a type. An id is ignored.
#[derive(ToSchema)]
pub(in crate::http) struct ResourceType {
    /// As `flag`.
    r#type: String,
    #[schema(nullable)]
    properties: Option<ResourceProperties>,
}

/// A resource of an organization.
#[derive(ToSchema)]
pub(in crate::http) struct ResourceOfOrganization {
    /// Not compared.
    r#type: String,
    /// A resource name with its tags, of at most 8192 bytes.
    id: String,
    properties: MemberProperties,
}

/// Subjects of a type. An id is ignored.
#[derive(ToSchema)]
pub(in crate::http) struct SubjectType {
    /// `access_token`; of any other type none are found.
    r#type: String,
}

/// As in an evaluation.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct SearchContext {
    #[schema(minimum = 0, maximum = 9223372036854775807_i64)]
    at_least_position: Option<i64>,
    #[schema(value_type = Value, required = false)]
    ip_address: Option<Value>,
}

/// Which part of the results. All but the token has to be as it was for the page before.
#[derive(ToSchema)]
pub(in crate::http) struct Page {
    /// The `next_token` of the page before. Empty or absent: the first page.
    #[schema(pattern = "^$", required = false)]
    token: Option<String>,
    /// The most results of a page; more than 100 are 100, which is the default.
    #[schema(minimum = 1, maximum = 9223372036854775807_i64)]
    limit: Option<i64>,
}

/// Who.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Subject {
    Token(TokenSubject),
    Member(MemberSubject),
    Other(OtherSubject),
}

/// An access token.
#[derive(ToSchema)]
pub(in crate::http) struct TokenSubject {
    #[schema(schema_with = access_token)]
    r#type: String,
    /// Its secret, or its uuid. What is neither is `unknown_token`.
    id: String,
}

/// A member, by its own permission.
#[derive(ToSchema)]
pub(in crate::http) struct MemberSubject {
    #[schema(schema_with = member)]
    r#type: String,
    /// Its uuid. What is none is `creator_not_a_member`.
    id: String,
    properties: MemberProperties,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct MemberProperties {
    /// The uuid of the organization the member is asked about in.
    organization_id: String,
}

/// Any other: `unknown_token`.
#[derive(ToSchema)]
pub(in crate::http) struct OtherSubject {
    #[schema(pattern = "^(?!access_token$|member$)")]
    r#type: String,
    id: String,
}

/// What the subject wants to do.
#[derive(ToSchema)]
pub(in crate::http) struct Action {
    /// FeatBit's permission, as `ToggleFlag`.
    name: String,
}

/// On what.
#[derive(ToSchema)]
pub(in crate::http) struct Resource {
    /// Not compared.
    r#type: String,
    /// A resource name with its tags, `project/<key>:env/<key>:flag/<key>;<tag>,<tag>`: raw text of at most 8192 bytes,
    /// never refused for its form.
    id: String,
    #[schema(nullable)]
    properties: Option<ResourceProperties>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct ResourceProperties {
    /// The uuid of the organization the resource is in: if it is not the subject's, nothing matches.
    organization_id: Option<String>,
}

/// `atPosition` and `atTime` exclude each other.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(in crate::http) struct Context {
    /// The decision reflects the log up to this position at least, which is waited for up to 250 ms; or else it is
    /// `stale_replica`.
    #[schema(minimum = 0, maximum = 9223372036854775807_i64)]
    at_least_position: Option<i64>,
    /// The address of whoever presented the token: a string that is an IPv4 or IPv6 address. Anything else counts as
    /// none, which for a token with `allowedIps` is `ip_not_allowed`.
    #[schema(value_type = Value, required = false)]
    ip_address: Option<Value>,
    /// Would it have been allowed at this position of the log? The time is that of its event. A secret is that of the token
    /// that has it now.
    #[schema(minimum = 0, maximum = 9223372036854775807_i64)]
    at_position: Option<i64>,
    /// Would it have been allowed then? Not still to come.
    at_time: Option<chrono::DateTime<chrono::Utc>>,
    /// Add every statement that has a say. This, and the past, is answered from the log within 5 s, or else `stale_replica`.
    #[schema(nullable)]
    explain: Option<bool>,
}

/// All are answered (`execute_all`, the default), or those up to the first that is denied or in error, or up to the first
/// that is allowed.
fn semantic() -> Schema {
    one_of(["execute_all", "deny_on_first_deny", "permit_on_first_permit"]).into()
}

pub(in crate::http) fn denied() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([false]))
        .into()
}

fn access_token() -> Schema {
    one_of(["access_token"]).into()
}

fn member() -> Schema {
    one_of(["member"]).into()
}

/// The closed list, in the order in which the first that applies is given.
pub(in crate::http) fn reason() -> Schema {
    let reasons = [
        Reason::StaleReplica,
        Reason::UnknownToken,
        Reason::TokenRemoved,
        Reason::TokenExpired,
        Reason::MemberBlocked,
        Reason::CreatorNotAMember,
        Reason::TokenInactive,
        Reason::IpNotAllowed,
        Reason::DeniedByStatement,
        Reason::NoMatchingStatement,
        Reason::OutsideTokenScope,
        Reason::Allowed,
    ];
    let words: Vec<Value> = reasons
        .iter()
        .filter_map(|reason| serde_json::to_value(reason).ok())
        .collect();
    let meanings: Vec<String> = reasons
        .iter()
        .zip(&words)
        .map(|(reason, word)| format!("- `{}`: {}", word.as_str().unwrap_or_default(), why(*reason)))
        .collect();
    text()
        .description(Some(format!(
            "Why: the first of these that applies, in this order.\n\n{}",
            meanings.join("\n")
        )))
        .enum_values(Some(words))
        .into()
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::StaleReplica => {
            "the node can't vouch that it knows the log up to now, or up to the position asked for"
        }
        Reason::UnknownToken => "no token has this secret or id, or the subject is of another type",
        Reason::TokenRemoved => "the token was removed",
        Reason::TokenExpired => "its time has passed",
        Reason::MemberBlocked => "a message about the member could not be used: what it may do is not known",
        Reason::CreatorNotAMember => {
            "the creator of a personal token, or the member asked about, is no member"
        }
        Reason::TokenInactive => "it was deactivated, or its creator has left since it was last activated",
        Reason::IpNotAllowed => "not from this address",
        Reason::DeniedByStatement => "a statement denies it",
        Reason::NoMatchingStatement => "no statement speaks of it, or the resource is another organization's",
        Reason::OutsideTokenScope => "the creator may, but the token was narrowed",
        Reason::Allowed => "a statement allows it and none denies it",
    }
}
