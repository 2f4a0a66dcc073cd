//! Bodies of requests that make or change tokens, for the document. They are read field by field in
//! `super::super::token_fields`; these types are never made.
#![expect(dead_code, reason = "their fields are read by the derive only")]

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, KnownFormat, Schema, SchemaFormat, SchemaType, Type,
};

use super::schemas::{effect, one_of, text, text_or_null};

/// A statement as POST and PUT take it, strictly.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({
    "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": ["project/web:env/prod:flag/*"],
}))]
pub(in crate::http) struct NewStatement {
    #[schema(schema_with = statement_id, required = false)]
    id: Option<String>,
    #[schema(schema_with = resource_type)]
    resource_type: String,
    #[schema(schema_with = effect)]
    effect: String,
    #[schema(schema_with = actions)]
    actions: Vec<String>,
    #[schema(schema_with = resources)]
    resources: Vec<String>,
}

/// A token to be issued. Keys are read without regard to case.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum NewToken {
    Personal(NewPersonalToken),
    Service(NewServiceToken),
}

/// May do what its creator may do, as long as the creator may.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({ "name": "my laptop", "type": "Personal", "permissions": [] }))]
pub(in crate::http) struct NewPersonalToken {
    #[schema(schema_with = name)]
    name: String,
    #[schema(schema_with = personal)]
    r#type: String,
    #[schema(schema_with = scope, required = false)]
    permissions: Option<Vec<NewStatement>>,
    #[schema(schema_with = description, required = false)]
    description: Option<String>,
    #[schema(schema_with = expiry, required = false)]
    expires_at: Option<DateTime<Utc>>,
    #[schema(schema_with = addresses, required = false)]
    allowed_ips: Option<Vec<String>>,
}

/// May do what its statements say, which never changes; they must not exceed what its creator may do when it is made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({
    "name": "ci", "type": "Service", "description": "deploys", "allowedIps": ["10.0.0.0/8"], "permissions": [{
        "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": ["project/web:env/prod:flag/*"],
    }],
}))]
pub(in crate::http) struct NewServiceToken {
    #[schema(schema_with = name)]
    name: String,
    #[schema(schema_with = service)]
    r#type: String,
    /// What it may do, for ever.
    #[schema(min_items = 1, max_items = 200)]
    permissions: Vec<NewStatement>,
    #[schema(schema_with = description, required = false)]
    description: Option<String>,
    #[schema(schema_with = expiry, required = false)]
    expires_at: Option<DateTime<Utc>>,
    #[schema(schema_with = addresses, required = false)]
    allowed_ips: Option<Vec<String>>,
}

/// How to rotate. Keys are read without regard to case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({ "overlapSeconds": 3600 }))]
pub(in crate::http) struct Rotation {
    /// How long the secret before goes on working, in seconds: 0 to 86400. Absent or null: not at all.
    #[schema(minimum = 0, maximum = 86_400, required = false)]
    overlap_seconds: Option<i64>,
}

/// What is to be changed: an absent field stays as it is, null means none. Keys are read without regard to case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({ "name": "my other laptop", "expiresAt": null }))]
pub(in crate::http) struct TokenUpdate {
    #[schema(schema_with = name)]
    name: String,
    #[schema(schema_with = fixed_permissions, required = false)]
    permissions: Option<Vec<NewStatement>>,
    #[schema(schema_with = description, required = false)]
    description: Option<String>,
    #[schema(schema_with = expiry, required = false)]
    expires_at: Option<DateTime<Utc>>,
    #[schema(schema_with = addresses, required = false)]
    allowed_ips: Option<Vec<String>>,
}

/// Unicode's white space, which names are trimmed of.
const SPACE: &str = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
/// Control characters, which no name holds.
const CONTROL: &str = r"\x00-\x1f\x7f-\x9f";
const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

fn name() -> Schema {
    let edge = format!("[^{SPACE}{CONTROL}]");
    text()
        .description(Some(
            "1 to 128 characters without control characters, what surrounds them trimmed; unique in the organization, \
             without regard to case.",
        ))
        .pattern(Some(format!(
            "^[{SPACE}]*{edge}(?:[^{CONTROL}]{{0,126}}{edge})?[{SPACE}]*$"
        )))
        .into()
}

pub(super) fn not_blank() -> Schema {
    text().pattern(Some(format!("[^{SPACE}]"))).into()
}

fn personal() -> Schema {
    one_of(["Personal"]).into()
}

fn service() -> Schema {
    one_of(["Service"]).into()
}

fn description() -> Schema {
    text_or_null()
        .description(Some("A few words, up to 1,000 characters, none of them NUL."))
        .max_length(Some(1000))
        .pattern(Some(r"^[^\x00]*$"))
        .into()
}

fn expiry() -> Schema {
    text_or_null()
        .description(Some(
            "From then on it can't be used. RFC 3339, in the future, at most `MAX_EXPIRY_DAYS` (400) days away; kept to the \
             microsecond.",
        ))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .into()
}

fn addresses() -> Schema {
    let (group, v4) = ("[0-9A-Fa-f]{1,4}", format!(r"{OCTET}(?:\.{OCTET}){{3}}"));
    // So many groups before the `::`, so many at most after it.
    let shortened = (0..=7_usize).map(|before| {
        let after = 7_usize.saturating_sub(before);
        let head = match before {
            0 => ":".to_owned(),
            _ => format!("(?:{group}:){{{before}}}"),
        };
        let embedded = match after {
            0 | 1 => String::new(),
            _ => format!("|(?::{group}){{0,{}}}:{v4}", after.saturating_sub(2)),
        };
        let tail = match after {
            0 => String::new(),
            _ => format!("(?::{group}){{1,{after}}}{embedded}|"),
        };
        format!("{head}(?:{tail}:)")
    });
    let whole = [
        format!("(?:{group}:){{7}}{group}"),
        format!("(?:{group}:){{6}}{v4}"),
    ];
    let v6: Vec<String> = whole.into_iter().chain(shortened).collect();
    let network = AnyOfBuilder::new()
        .description(Some("A single address, or a network, `10.0.0.0/8`."))
        .item(text().pattern(Some(format!("^{v4}(?:/(?:3[0-2]|[12]?[0-9]))?$"))))
        .item(text().pattern(Some(format!(
            "^(?:{})(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?$",
            v6.join("|")
        ))));
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Array, Type::Null]))
        .items(network)
        .max_items(Some(100))
        .description(Some(
            "The only addresses it may be used from, IPv4 and IPv6; an IPv4 address written as IPv6 counts as IPv4. None: \
             from everywhere.",
        ))
        .into()
}

fn statements_or_null(description: &str) -> Schema {
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Array, Type::Null]))
        .items(Ref::from_schema_name("NewStatement"))
        .max_items(Some(200))
        .description(Some(description))
        .into()
}

fn scope() -> Schema {
    statements_or_null("Narrows what it may do to what these statements allow; none: not narrowed.")
}

fn fixed_permissions() -> Schema {
    statements_or_null(
        "Of a personal token: without effect. Of a service token: absent, or what it has: as sets, its actions and resources \
         too, and without regard to ids.",
    )
}

fn statement_id() -> Schema {
    text_or_null()
        .description(Some(
            "Named by decisions that rest on the statement. Absent or null: a new one.",
        ))
        .pattern(Some(r"^[^\x00]{1,64}$"))
        .into()
}

fn resource_type() -> Schema {
    text()
        .description(Some(
            "`flag`, `segment`, `project`, `env`, `iam`, `workspace`, …: a label; `*` is about everything, whatever the \
             actions and resources.",
        ))
        .pattern(Some(r"^[^\x00]+$"))
        .into()
}

fn actions() -> Schema {
    parts("Permissions, as `ToggleFlag`; `*` is all of them.")
}

fn resources() -> Schema {
    parts("Patterns of resource names, as `project/web:env/*:flag/*`.")
}

fn parts(description: &str) -> Schema {
    ArrayBuilder::new()
        .items(text().pattern(Some(r"^[^\x00]+$")))
        .min_items(Some(1))
        .max_items(Some(100))
        .description(Some(description))
        .into()
}
