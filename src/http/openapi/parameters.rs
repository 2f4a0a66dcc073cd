//! Parameters of requests, for the document. What is read of them is read where they are used.

use swagger_ui_redist::SwaggerUiStaticFile;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Required, schema};

use super::super::audit_logs::MAX_MILLISECONDS;
use super::token_bodies::not_blank;

/// Defines types for `params(…)`: each stands for a list of parameters.
macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident => [$($parameter:expr),+ $(,)?];)+) => { $(
        $(#[$doc])*
        pub(in crate::http) struct $name;

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![$($parameter),+]
            }
        }
    )+ };
}

parameters! {
    /// What every operation of a member takes.
    OfMember => [required(
        ParameterIn::Header,
        "Organization",
        uuid(),
        "The organization in which the caller asks. Without one of which the caller is a member: 403.",
    )];
    IdempotencyKey => [optional(
        ParameterIn::Header,
        "Idempotency-Key",
        text().pattern(Some("^[!-~]{1,255}$")),
        "The caller's name for what it asks: 1 to 255 visible ASCII characters. Asked again with the same key and body \
         within 30 days, nothing is done twice: 409 `AlreadyDone`. Known to the organization, the caller and the path \
         alone; a request that failed leaves its key unused.",
    )];
    Wait => [optional(
        ParameterIn::Query,
        "wait",
        text().enum_values(Some(["none", ""])),
        "What takes something away is answered when no node decides without knowing it, which takes some milliseconds, and \
         a second where a node is lost. `none`: is answered at once. Empty: waits.",
    )];
    At => [optional(
        ParameterIn::Query,
        "at",
        AnyOfBuilder::new()
            .item(text().pattern(Some("^[0-9]{1,18}$")))
            .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
            .item(text().enum_values(Some([""])))
            .build(),
        "A position of the log, or a time that is not still to come (RFC 3339). Empty: now.",
    )];
    Audited => [
        optional(
            ParameterIn::Query,
            "query",
            text(),
            "Text in the event's type or in what it says, without regard to case. Empty: no filter.",
        ),
        optional(ParameterIn::Query, "actorId", or_empty(uuid()), "The member who did it. Empty: no filter."),
        optional(
            ParameterIn::Query,
            "type",
            text().examples(["access_token", "member", "organization"]),
            "To what it happened; any other word is none of them. Empty: no filter.",
        ),
        optional(ParameterIn::Query, "refId", or_empty(uuid()), "To which token, member or organization. Empty: no filter."),
        optional(
            ParameterIn::Query,
            "from",
            or_empty(integer(0, MAX_MILLISECONDS)),
            "Not before this millisecond since 1970. Empty: no filter.",
        ),
        optional(
            ParameterIn::Query,
            "to",
            or_empty(integer(0, MAX_MILLISECONDS)),
            "Not after this millisecond since 1970. Empty: no filter.",
        ),
        optional(
            ParameterIn::Query,
            "after",
            or_empty(integer(0, i64::MAX)),
            "Only positions below this one: the last of the page before. Empty: from the newest on.",
        ),
        optional(
            ParameterIn::Query,
            "pageSize",
            or_empty(integer(1, 100).default(Some(10.into()))),
            "Items of a page, 1 to 100. Empty: 10.",
        ),
    ];
    TokenInPath => [required(ParameterIn::Path, "id", uuid(), "The token's id. What is no uuid is no token: 404.")];
    ParkedInPath => [required(ParameterIn::Path, "id", uuid(), "The message's id. What is no uuid is none: 404.")];
    FileInPath => [required(ParameterIn::Path, "file", file_name(), "Its name.")];
    AskedName => [required(ParameterIn::Query, "name", not_blank(), "The name; not blank.")];
    Paging => [
        optional(
            ParameterIn::Query,
            "pageIndex",
            or_empty(integer(0, i64::from(i32::MAX)).default(Some(0.into()))),
            "Which page, from 0. Empty: 0.",
        ),
        optional(
            ParameterIn::Query,
            "pageSize",
            or_empty(integer(1, 100).default(Some(10.into()))),
            "Items of a page, 1 to 100. Empty: 10.",
        ),
    ];
    ForwardAuth => [
        optional(
            ParameterIn::Header,
            "X-FeatBit-Action",
            text(),
            "FeatBit's permission, as `ToggleFlag`. Nothing is allowed a token without it, and without the other.",
        ),
        optional(
            ParameterIn::Header,
            "X-FeatBit-Resource",
            text(),
            "A resource name with its tags: raw text, never refused for its form.",
        ),
    ];
    Filter => [
        optional(ParameterIn::Query, "name", text(), "Part of the name, without regard to case. Empty: no filter."),
        optional(
            ParameterIn::Query,
            "type",
            text().examples(["Personal", "Service"]),
            "`Personal` or `Service`; any other word is no token's type. Empty: no filter.",
        ),
        optional(ParameterIn::Query, "creatorId", or_empty(uuid()), "The member who made it. Empty: no filter."),
        optional(
            ParameterIn::Query,
            "status",
            text().examples(["Active", "Inactive"]),
            "`Active` or `Inactive`; any other word is no token's status. Empty: no filter.",
        ),
    ];
}

/// What any request may carry: in the document once, and not repeated by each operation.
pub(super) fn of_any_request() -> [(&'static str, Parameter); 2] {
    [
        (
            "atLeastPosition",
            optional(
                ParameterIn::Header,
                "X-At-Least-Position",
                integer(0, i64::MAX).default(Some(0.into())),
                "The answer reflects the log up to this position at least, which is waited for up to 250 ms; then 503. \
                 Operations of members; in decisions it is `context.atLeastPosition`.",
            ),
        ),
        (
            "requestId",
            optional(
                ParameterIn::Header,
                "X-Request-ID",
                text(),
                "The caller's name for the request: decisions echo it, and what a request changes is recorded with it. \
                 Without one, or with one that is empty, longer than 128 bytes or not ASCII, it is recorded with a name of \
                 ours.",
            ),
        ),
    ]
}

fn required(place: ParameterIn, name: &str, schema: impl Into<Schema>, description: &str) -> Parameter {
    parameter(place, name, schema.into(), description, Required::True)
}

fn optional(place: ParameterIn, name: &str, schema: impl Into<Schema>, description: &str) -> Parameter {
    parameter(place, name, schema.into(), description, Required::False)
}

fn parameter(
    place: ParameterIn,
    name: &str,
    schema: Schema,
    description: &str,
    required: Required,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(schema))
        .description(Some(description))
        .build()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn uuid() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

fn file_name() -> ObjectBuilder {
    text().enum_values(Some(
        SwaggerUiStaticFile::all()
            .iter()
            .map(SwaggerUiStaticFile::file_name),
    ))
}

fn integer(minimum: i64, maximum: i64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(minimum))
        .maximum(Some(maximum))
}

/// A query parameter that is empty is as good as an absent one.
fn or_empty(schema: ObjectBuilder) -> schema::AnyOf {
    AnyOfBuilder::new()
        .item(schema)
        .item(text().enum_values(Some([""])))
        .build()
}
