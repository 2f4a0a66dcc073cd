//! What can go wrong in each operation, for the document. Statuses, codes and headers are not written down here: a problem
//! is asked for its own answer. A new [`Problem`] does not compile until its meaning is said.

use std::collections::BTreeMap;

use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::IntoResponse;
use chrono::DateTime;
use domain::access_token::AccessTokenRefusal;
use domain::secret::{Secret, SecretKind};
use serde_json::{Value, json};
use utoipa::IntoResponses;
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{ContentBuilder, Header, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder};
use uuid::Uuid;

use super::super::failed_attempts::TooManyFailures;
use super::super::problem::Problem;
use crate::commands::issuing::Issued;

/// Defines types for `responses(…)`: each stands for a list of problems.
macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident => $problems:expr;)+) => { $(
        $(#[$doc])*
        pub(in crate::http) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                answers($problems)
            }
        }
    )+ };
}

problems! {
    /// Whoever asks, for whatever.
    OfEverybody => vec![Problem::TooLarge];
    File => vec![Problem::TooLarge, Problem::NotFound];
    ForwardAuth => vec![
        Problem::Unauthorized,
        Problem::Forbidden,
        Problem::TooLarge,
        too_many_requests(),
        Problem::Unavailable,
    ];
    /// Not found: the service was not told its public URL.
    Discovery => vec![Problem::TooLarge, Problem::NotFound];
    List => query([invalid(["creator_id_is_invalid", PAGE_INDEX, PAGE_SIZE])]);
    IsNameUsed => query([invalid(["name_is_required"])]);
    Find => query([Problem::NotFound]);
    History => query([Problem::NotFound, invalid([PAGE_INDEX, PAGE_SIZE])]);
    Permissions => query([Problem::NotFound, invalid(["at_is_invalid"])]);
    AuditLogs => query([invalid([
        "actor_id_is_invalid",
        "ref_id_is_invalid",
        "from_is_invalid",
        "to_is_invalid",
        "after_is_invalid",
        PAGE_SIZE,
    ])]);
    Checkpoints => query([]);
    Create => command([
        invalid([
            "name_is_required",
            "name_is_invalid",
            "type_is_required",
            "type_is_invalid",
            "permissions_is_invalid",
            "description_is_invalid",
            "expires_at_is_invalid",
            "allowed_ips_is_invalid",
            "body_is_invalid",
        ]),
        invalid([IDEMPOTENCY_KEY]),
        Problem::NameHasBeenUsed,
        Problem::TooManyTokens,
        Problem::IdempotencyKeyReused,
        already_done(),
    ]);
    Rotate => revoking([
        invalid(["overlap_seconds_is_invalid", "body_is_invalid", IDEMPOTENCY_KEY]),
        Problem::NotFound,
        Problem::Refused(AccessTokenRefusal::TokenIsExpired),
        Problem::IdempotencyKeyReused,
        already_done(),
        after_issuing(),
    ]);
    Update => revoking([
        invalid([
            "name_is_required",
            "name_is_invalid",
            "permissions_is_invalid",
            "description_is_invalid",
            "expires_at_is_invalid",
            "allowed_ips_is_invalid",
            "body_is_invalid",
        ]),
        Problem::NotFound,
        Problem::NameHasBeenUsed,
        Problem::Refused(AccessTokenRefusal::PermissionsAreFixed),
    ]);
    /// That the creator is no member is none of them: only its creator may activate a personal token.
    Activate => command([Problem::NotFound, Problem::Refused(AccessTokenRefusal::TokenIsExpired)]);
    Toggle => revoking([Problem::NotFound, Problem::Refused(AccessTokenRefusal::TokenIsExpired)]);
    Deactivate => revoking([Problem::NotFound]);
    ParkedMessages => query([invalid([PAGE_INDEX, PAGE_SIZE])]);
    RetryParked => revoking([Problem::NotFound]);
    DropParked => command([Problem::NotFound]);
    MembershipEvents => vec![
        invalid(["content_type_is_invalid", "body_is_invalid", "too_many_events", "version_is_required", "wait_is_invalid"]),
        Problem::Unauthorized,
        Problem::NotFound,
        Problem::Conflict,
        Problem::TooLarge,
        too_many_requests(),
        Problem::Unavailable,
        Problem::Unconfirmed { position: 0 },
    ];
    /// Only an id that is no uuid is not found.
    Remove => revoking([Problem::NotFound]);
}

const PAGE_INDEX: &str = "page_index_is_invalid";
const PAGE_SIZE: &str = "page_size_is_invalid";
const IDEMPOTENCY_KEY: &str = "idempotency_key_is_invalid";

fn already_done() -> Problem {
    Problem::AlreadyDone {
        position: 0,
        token: None,
    }
}

/// With a secret that is nobody's.
fn after_issuing() -> Problem {
    let issued = Issued {
        token_id: Uuid::nil().into(),
        secret: Secret::generate(SecretKind::Personal, [0; 32]),
        at: DateTime::UNIX_EPOCH,
    };
    Problem::AfterIssuing {
        position: 0,
        issued: Box::new(issued),
        problem: Box::new(Problem::Unconfirmed { position: 0 }),
    }
}

fn too_many_requests() -> Problem {
    Problem::TooManyRequests(TooManyFailures { retry_after: 60 })
}

fn invalid<const N: usize>(codes: [&'static str; N]) -> Problem {
    Problem::Invalid(codes.to_vec())
}

/// What every operation of a known caller can come to, and its own.
fn query(own: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let shared = [
        invalid(["at_least_position_is_invalid"]),
        Problem::Unauthorized,
        Problem::Forbidden,
        Problem::TooLarge,
        too_many_requests(),
        Problem::Unavailable,
    ];
    own.into_iter().chain(shared).collect()
}

/// The same for what changes something.
fn command(own: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    query(own.into_iter().chain([Problem::Conflict]))
}

/// And for what can take something away, which waits until every node knows.
fn revoking(own: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let waiting = [invalid(["wait_is_invalid"]), Problem::Unconfirmed { position: 0 }];
    command(own.into_iter().chain(waiting))
}

/// The problems of decisions: a JSON string.
pub(in crate::http) struct OfDecisions;

impl IntoResponses for OfDecisions {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let message = || Schema::from(ObjectBuilder::new().schema_type(Type::String));
        let said = |description: &str, schema: Schema| {
            let content = ContentBuilder::new().schema(Some(schema)).build();
            ResponseBuilder::new()
                .description(description)
                .content("application/json", content)
                .build()
                .into()
        };
        BTreeMap::from([
            (
                "400".to_owned(),
                said(
                    "What is wrong with the question: a required field is missing or of another type, the body is empty \
                     or not JSON, `Content-Type` is not `application/json`.",
                    message(),
                ),
            ),
            (
                "401".to_owned(),
                said(
                    "`X-Gateway-Key` is missing or not one of the service's.",
                    message(),
                ),
            ),
            (
                "429".to_owned(),
                said(
                    "More than 100 wrong keys in a minute from this address. A good key is never refused for it.",
                    message(),
                ),
            ),
            (
                "413".to_owned(),
                said(
                    "A body over 256 KiB, or headers and path over 16 KiB together.",
                    message(),
                ),
            ),
        ])
    }
}

/// The problems of introspection, as OAuth 2.0 says them.
pub(in crate::http) struct Introspection;

impl IntoResponses for Introspection {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let error = |error| {
            let error = Schema::from(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([error])),
            );
            Schema::from(ObjectBuilder::new().property("error", error).required("error"))
        };
        let said = |description: &str, schema: Schema| {
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response = ResponseBuilder::new().description(description);
            RefOr::from(response.content("application/json", content).build())
        };
        let answers = [
            (
                "400",
                "No form, or one that does not hold one `token`.",
                error("invalid_request"),
            ),
            (
                "401",
                "`X-Gateway-Key` is missing or not one of the service's.",
                error("invalid_client"),
            ),
            (
                "413",
                "A body over 256 KiB, or headers and path over 16 KiB together.",
                error("invalid_request"),
            ),
            (
                "429",
                "More than 100 wrong keys in a minute from this address.",
                error("invalid_client"),
            ),
        ];
        let answers =
            answers.map(|(status, description, schema)| (status.to_owned(), said(description, schema)));
        BTreeMap::from(answers)
    }
}

/// What many operations can come to stands once in the document, by the name of its code.
pub(super) fn shared() -> impl Iterator<Item = (&'static str, Response)> {
    [
        Problem::Unauthorized,
        Problem::Forbidden,
        Problem::NotFound,
        Problem::Conflict,
        Problem::TooLarge,
        too_many_requests(),
        Problem::Unavailable,
    ]
    .into_iter()
    .flat_map(|problem| {
        let codes = problem.codes();
        by_status(vec![problem])
            .into_values()
            .filter_map(move |answer| Some((*codes.first()?, answer)))
    })
}

/// The answers to these problems, one for each status.
fn answers(problems: Vec<Problem>) -> BTreeMap<String, RefOr<Response>> {
    let shared: BTreeMap<&str, Response> = shared().collect();
    by_status(problems)
        .into_iter()
        .map(|(status, answer)| {
            let same = shared.iter().find(|(_, other)| **other == answer);
            (
                status,
                match same {
                    Some((code, _)) => Ref::from_response_name(*code).into(),
                    None => answer.into(),
                },
            )
        })
        .collect()
}

fn by_status(problems: Vec<Problem>) -> BTreeMap<String, Response> {
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    for problem in problems {
        let (codes, meaning, shown) = (problem.codes(), meaning(&problem), shown(&problem));
        let response = problem.into_response();
        let answer = answers.entry(response.status().as_u16().to_string()).or_default();
        for code in codes {
            if !answer.codes.contains(&code) {
                answer.codes.push(code);
            }
        }
        if !answer.meanings.contains(&meaning) {
            answer.meanings.push(meaning);
        }
        answer.shown.extend(shown);
        for (header, name) in HEADERS {
            if let Some(value) = response
                .headers()
                .get(header)
                .and_then(|value| value.to_str().ok())
            {
                answer.headers.insert(name, value.to_owned());
            }
        }
    }
    answers
        .into_iter()
        .map(|(status, answer)| (status, answer.into()))
        .collect()
}

/// All that is answered with one status.
#[derive(Default)]
struct Answer {
    codes: Vec<&'static str>,
    meanings: Vec<&'static str>,
    /// What `data` may be, beside null.
    shown: Vec<RefOr<Schema>>,
    headers: BTreeMap<&'static str, String>,
}

/// The headers a client does something about.
const HEADERS: [(HeaderName, &str); 3] = [
    (WWW_AUTHENTICATE, "WWW-Authenticate"),
    (RETRY_AFTER, "Retry-After"),
    (CACHE_CONTROL, "Cache-Control"),
];

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let content = ContentBuilder::new()
            .schema(Some(envelope(&answer.codes, answer.shown)))
            .example(answer.codes.first().map(|code| failed_with(code)))
            .build();
        let listed = |code: &&str| format!("`{code}`");
        let codes: Vec<String> = answer
            .codes
            .iter()
            .filter(|code| names_a_field(code))
            .map(listed)
            .collect();
        let response = ResponseBuilder::new()
            .description(format!("{} {}", answer.meanings.join(" "), codes.join(", ")).trim_end())
            .content("application/json", content);
        answer
            .headers
            .into_iter()
            .fold(response, |response, (name, value)| {
                response.header(name, header(name, &value))
            })
            .build()
    }
}

/// A header that says how long to wait, or else one that always says this.
fn header(name: &str, value: &str) -> Header {
    if name == "Retry-After" {
        return seconds();
    }
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([value]));
    Header::new(text)
}

fn seconds() -> Header {
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    HeaderBuilder::new()
        .schema(Some(number))
        .description(Some("In seconds."))
        .build()
}

/// What there is to show beside the codes.
fn shown(problem: &Problem) -> Option<RefOr<Schema>> {
    match problem {
        Problem::AlreadyDone { .. } => Some(Ref::from_schema_name("Token").into()),
        Problem::AfterIssuing { .. } => {
            let text = |format| {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.format(format)
            };
            let secret = ObjectBuilder::new()
                .property("id", text(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))))
                .required("id")
                .property("token", text(None))
                .required("token");
            Some(Schema::from(secret).into())
        }
        _ => None,
    }
}

/// FeatBit's envelope around some of these codes: around exactly one of them, if none names a field.
fn envelope(codes: &[&'static str], shown: Vec<RefOr<Schema>>) -> Schema {
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().copied()));
    let names_fields = codes.iter().any(|code| names_a_field(code));
    let errors = ArrayBuilder::new()
        .items(code)
        .min_items(Some(1))
        .max_items((!names_fields).then_some(1));
    let success = ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([false]));
    let nothing = ObjectBuilder::new().schema_type(Type::Null);
    let data = if shown.is_empty() {
        nothing.into()
    } else {
        let any = shown.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
        Schema::from(any.item(nothing))
    };
    ObjectBuilder::new()
        .property("success", success)
        .required("success")
        .property("errors", errors)
        .required("errors")
        .property("data", data)
        .required("data")
        .into()
}

/// These are in snake_case, and several may stand in one answer.
fn names_a_field(code: &str) -> bool {
    code.starts_with(|first: char| first.is_ascii_lowercase())
}

fn failed_with(code: &str) -> Value {
    json!({ "success": false, "errors": [code], "data": null })
}

/// What a client is told of a problem.
fn meaning(problem: &Problem) -> &'static str {
    match problem {
        Problem::Invalid(_) => {
            "The body, the query or a header does not hold what it must; every reason, in the order of the fields:"
        }
        Problem::Unauthorized => "No JWT, or one that is not believed.",
        Problem::Forbidden => {
            "The caller is known and may not, or is no member of the organization it names."
        }
        Problem::NotFound | Problem::Refused(AccessTokenRefusal::NoSuchToken) => {
            "Nothing here has this id or name; a removed token has neither, nor has one of another organization."
        }
        Problem::MethodNotAllowed => "The path is there, for another method.",
        Problem::Conflict | Problem::Refused(AccessTokenRefusal::AlreadyExists) => {
            "Other changes kept coming first; nothing was done."
        }
        Problem::AlreadyDone { .. } => {
            "`AlreadyDone`: the same was asked before under the same idempotency key; the token that came of it is shown, \
             masked, or null where it was removed since; `X-Log-Position` is that of its last event."
        }
        Problem::TooManyRequests(_) => {
            "Too many failed authentications from this address: more than 100 in a minute. Good credentials are never \
             refused for it, and on loopback nothing is."
        }
        Problem::IdempotencyKeyReused => {
            "`IdempotencyKeyReused`: the key was used with another body, within 30 days."
        }
        Problem::TooLarge => "A body over 256 KiB, or headers and path over 16 KiB together.",
        Problem::NameHasBeenUsed => {
            "`NameHasBeenUsed`: another token of the organization has the name, which is compared without regard to case."
        }
        Problem::TooManyTokens => {
            "`TooManyAccessTokens`: the organization has as many tokens as it may have (`MAX_TOKENS_PER_ORGANIZATION`)."
        }
        Problem::Refused(AccessTokenRefusal::PermissionsAreFixed) => {
            "`PermissionsAreFixed`: a service token's permissions can't be changed."
        }
        Problem::Refused(AccessTokenRefusal::TokenIsExpired) => {
            "`TokenIsExpired`: it needs a new expiry first."
        }
        Problem::Refused(AccessTokenRefusal::CreatorIsNotAMember) => {
            "`CreatorIsNotAMember`: a personal token can't be activated while its creator is no member."
        }
        Problem::Unavailable => {
            "The store is out of reach, or the position is not reached in time. `Retry-After` is in seconds."
        }
        Problem::Unconfirmed { .. } => {
            "It was done, and stands at `X-Log-Position`, but a node that may still decide could not be waited for in five \
             seconds: ask again to wait for it."
        }
        Problem::AfterIssuing { .. } => {
            "`data` with an `id` and a `token`: the token was rotated, and this is its new secret, which is shown now or never."
        }
        Problem::Internal => "Anything else.",
    }
}
