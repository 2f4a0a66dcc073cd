//! The two requests whose answer holds a secret, this once: creating a token, and rotating it. Under an idempotency key a
//! retry is told what came of the first one, with the secret masked.

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use domain::ids::TokenId;
use projections::access_tokens as tokens;

use super::Service;
use super::access_tokens::{IdInPath, in_read_models, limits, load, settle, token_id};
use super::body::Fields;
use super::caller::KnownCaller;
use super::confirming::{Wait, confirmed};
use super::envelope::done;
use super::idempotency::idempotency_key;
use super::openapi::schemas::Success;
use super::openapi::{ACCESS_TOKENS, parameters, problems, token_bodies};
use super::problem::Problem;
use super::token_body::{CreatorBody, IssuedBody, TokenBody};
use super::token_fields::{Limits, new_token, overlap};
use crate::commands::issuing::{IdempotencyKey, Issued, Issuing, NewToken};
use crate::commands::{Caller, Done};

/// `POST /access-tokens`
#[utoipa::path(
    post, path = "/api/v1/access-tokens", tag = ACCESS_TOKENS, operation_id = "createAccessToken", security(("jwt" = [])),
    summary = "Issue a token",
    description = "Its secret is in this answer and in no other. Needs `ManagePersonalAccessTokens` or \
                   `ManageServiceAccessTokens`, by its type; the statements of a service token must be covered by what \
                   the caller may do, or else 403. Statements are taken strictly.",
    params(parameters::OfMember, parameters::IdempotencyKey),
    request_body = token_bodies::NewToken,
    responses(
        (status = 200, description = "The token, with its secret in `token`.", body = Success<IssuedBody>, headers(
            ("X-Log-Position" = i64, description = "The position of its creation."),
            ("Cache-Control" = String, description = "`no-store`: it holds a secret."),
        )),
        problems::Create,
    ),
)]
pub(super) async fn create(
    State(service): State<Service>,
    known: KnownCaller,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let new = new_token(&fields, limits(&service));
    let key = idempotency_key(&headers, "/access-tokens".to_owned(), &fields);
    let (new, key) = match (new, key) {
        (Ok(new), key) => (new, key?),
        (Err(problem), Ok(Some(key))) => return overtaken(&service, &known, &fields, &key, problem).await,
        (Err(problem), _) => return Err(problem),
    };
    let known_count = service.index.token_count(known.caller.organization_id);
    let created = service
        .commands
        .create_token(&known.caller, &new, known_count, key.as_ref())
        .await?;
    match created.value {
        Issuing::AlreadyDone(token_id) => repeated(&service, &known, token_id, created.position).await,
        Issuing::Issued(issued) => {
            settle(&service, created.position).await;
            let token = created_body(&service, &known, new, &issued).await;
            Ok(show(&known, token, &issued, created.position))
        }
    }
}

/// A retry may come when the expiry that it names has passed: that it was done before says more than that it can't be any
/// more.
async fn overtaken(
    service: &Service,
    known: &KnownCaller,
    fields: &Fields,
    key: &IdempotencyKey,
    problem: Problem,
) -> Result<Response, Problem> {
    let Ok(new) = new_token(fields, Limits::NONE) else {
        return Err(problem);
    };
    match service.commands.created_before(&known.caller, &new, key).await? {
        Some(Done {
            value: Issuing::AlreadyDone(token_id),
            position,
            ..
        }) => repeated(service, known, token_id, position).await,
        Some(_) | None => Err(problem),
    }
}

/// `POST /access-tokens/{id}/rotate`
#[utoipa::path(
    post, path = "/api/v1/access-tokens/{id}/rotate", tag = ACCESS_TOKENS, operation_id = "rotateAccessToken",
    security(("jwt" = [])),
    summary = "Give a token another secret",
    description = "It is in this answer and in no other. The one before goes on working for the overlap, but not past the \
                   token's expiry; one that was still working from an earlier rotation ends at once. An inactive token is \
                   rotated and stays inactive. A personal token is rotated by its creator alone, a service token by whoever \
                   manages service tokens and covers its statements. Where something goes wrong after the rotation (503: \
                   a node could not be waited for), `data` holds the new secret all the same, as `id` and `token`.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Wait, parameters::IdempotencyKey),
    request_body(content = Option<token_bodies::Rotation>, description = "May be left out."),
    responses(
        (status = 200, description = "The token, with its new secret in `token`.", body = Success<IssuedBody>, headers(
            ("X-Log-Position" = i64, description = "The position of the rotation."),
            ("X-Confirmed-Nodes" = i64, description = "How many nodes said that they know, where the answer waited for them."),
            ("X-Confirmed-In-Ms" = i64, description = "How long that took, in milliseconds."),
            ("Cache-Control" = String, description = "`no-store`: it holds a secret."),
        )),
        problems::Rotate,
    ),
)]
pub(super) async fn rotate(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    wait: Wait,
    headers: HeaderMap,
    fields: Option<Fields>,
) -> Result<Response, Problem> {
    let token_id = token_id(id)?;
    let fields = fields.unwrap_or_default();
    let overlap = overlap(&fields)?;
    let key = idempotency_key(&headers, format!("/access-tokens/{token_id}/rotate"), &fields)?;
    let rotated = service
        .commands
        .rotate_token(&known.caller, token_id, overlap, key.as_ref())
        .await?;
    let position = rotated.position;
    let confirmation = service.confirm(&rotated, wait).await;
    match rotated.value {
        Issuing::AlreadyDone(token_id) => {
            confirmation?;
            repeated(&service, &known, token_id, position).await
        }
        Issuing::Issued(issued) => {
            let shown = async {
                let confirmation = confirmation?;
                // Also where it lags: it is shown with its new secret then, and the rest as it was.
                in_read_models(&service, position).await.ok();
                let token = load(&service, &known, token_id).await?;
                Ok(confirmed(show(&known, token, &issued, position), confirmation))
            };
            shown.await.map_err(|problem| Problem::AfterIssuing {
                position,
                issued: Box::new(issued),
                problem: Box::new(problem),
            })
        }
    }
}

/// From what was asked, not from the read model: the secret must be answered even if that lags.
async fn created_body(service: &Service, known: &KnownCaller, new: NewToken, issued: &Issued) -> TokenBody {
    TokenBody {
        id: issued.token_id,
        name: new.name.as_str().to_owned(),
        description: new.description,
        token_type: new.token_type.as_str().to_owned(),
        status: "Active".to_owned(),
        token: String::new(),
        permissions: new.statements,
        expires_at: new.expires_at,
        allowed_ips: new.allowed_ips.iter().map(ToString::to_string).collect(),
        last_used_at: None,
        created_at: issued.at,
        updated_at: issued.at,
        inactive_reason: None,
        creator: profile(service, &known.caller).await,
    }
}

/// The caller's own name and address.
async fn profile(service: &Service, caller: &Caller) -> CreatorBody {
    let profile = service.profiles.of(&service.pool, caller).await;
    CreatorBody {
        id: caller.member_id,
        name: profile.name,
        email: profile.email,
    }
}

/// The token with its secret: this once, and for nobody to keep but the caller.
fn show(known: &KnownCaller, token: TokenBody, issued: &Issued, position: i64) -> Response {
    let creator_id = token.creator.id;
    let body = IssuedBody {
        token: TokenBody {
            token: issued.secret.reveal().to_owned(),
            updated_at: issued.at,
            ..token
        },
        organization_id: known.caller.organization_id,
        creator_id,
    };
    let mut response = done(position, body);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What came of the first request under this key: nothing to show where the token was removed since.
async fn repeated(
    service: &Service,
    known: &KnownCaller,
    token_id: TokenId,
    position: i64,
) -> Result<Response, Problem> {
    in_read_models(service, position).await?;
    let mut connection = service.pool.acquire().await?;
    let (organization_id, now) = (known.caller.organization_id, service.clock.now());
    let found = tokens::find(&mut connection, organization_id, now, token_id).await?;
    Err(Problem::AlreadyDone {
        position,
        token: found.map(|row| Box::new(row.into())),
    })
}
