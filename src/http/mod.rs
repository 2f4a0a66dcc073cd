//! The HTTP surface: one file per subject; `caller` says who asks, `problem` is where every failure leaves.

mod access_tokens;
mod audit_logs;
mod body;
mod caller;
mod checkpoints;
mod client_address;
mod confirming;
mod discovery;
mod envelope;
mod evaluation;
mod event_body;
mod failed_attempts;
mod field;
mod forward_auth;
mod gateway;
mod health;
mod history;
mod idempotency;
mod introspection;
mod issuing;
mod membership_events;
mod metrics;
mod openapi;
mod parked;
mod past;
mod permissions;
mod problem;
mod profiles;
mod query;
mod question;
mod search;
mod serving;
mod token_body;
mod token_fields;
mod words;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use domain::secret::Secret;
use sqlx::PgPool;
use tokio::sync::watch;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

pub use caller::JwtVerifier;
use caller::single;
use client_address::peer;
pub use discovery::Discovery;
pub use failed_attempts::FailedAttempts;
use gateway::Form;
pub use health::{Progress, Projected, Vitals};
pub use openapi::document;
pub use past::Turns;
use problem::Problem;
pub use profiles::Profiles;
pub use serving::serve;

use crate::audit::Signed;
use crate::authorization::{Index, Revocations};
use crate::clock::Clock;
use crate::commands::Commands;
use crate::database::within;
use crate::metrics::Metrics;

/// How long a request may take. Whatever it waits for is given up long before, but for a connection that has fallen silent.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of all headers of a request together.
const MAX_HEADERS: usize = 16 * 1024;
/// How long a query waits for what this node has appended: it is on its way.
const OWN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a query waits for a position that the caller names.
const POSITION_PATIENCE: Duration = Duration::from_millis(250);
/// Digits of a second, as the log has them.
const MICROSECONDS: u16 = 6;
const AT_LEAST_POSITION: HeaderName = HeaderName::from_static("x-at-least-position");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers work with. Each request clones it several times, so it is one pointer.
#[derive(Clone)]
pub struct Service(Arc<Parts>);

/// What a [`Service`] is made of. It holds keys, so it can't be printed.
pub struct Parts {
    /// For queries.
    pub pool: PgPool,
    /// For decisions, and for who the caller is.
    pub index: Arc<Index>,
    /// For everything that changes something.
    pub commands: Commands,
    /// The database's time.
    pub clock: Clock,
    /// Whose JWTs are believed.
    pub jwt: JwtVerifier,
    /// Who may ask for decisions; empty: everybody who can reach the port.
    pub gateway_keys: Vec<String>,
    /// Who may send membership events; empty: nobody, there is no such route.
    pub intake_keys: Vec<String>,
    /// Who has failed to say who it is, and how often.
    pub failed_attempts: FailedAttempts,
    /// Proxies in front of this node whose `X-Forwarded-For` is believed.
    pub trusted_proxy_hops: u8,
    /// Waits until every node knows what was taken away.
    pub revocations: Arc<Revocations>,
    /// From which other origins browsers may use the API.
    pub cors_origins: Vec<HeaderValue>,
    /// The farthest expiry that may be asked for, in days.
    pub max_expiry_days: u32,
    /// What can be measured of it.
    pub metrics: Metrics,
    /// How this node is.
    pub vitals: Vitals,
    /// What was signed of the log.
    pub signed: watch::Receiver<Signed>,
    /// Names and addresses of callers.
    pub profiles: Profiles,
    /// Whose turn it is to be answered from the log.
    pub turns: Turns,
    /// Do FeatBit's own JWTs pass forward auth?
    pub passes_jwts: bool,
    /// Where gateways find what answers their questions; none: it is not said.
    pub discovery: Option<Discovery>,
}

impl From<Parts> for Service {
    fn from(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Service {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Every route there is, with its part of the OpenAPI document: `routes!` takes only handlers that have one.
fn documented(document: OpenApi) -> OpenApi {
    OpenApiRouter::with_openapi(document)
        .merge(enveloped())
        .merge(decisions())
        .merge(forward_auth())
        .merge(introspection())
        .into_openapi()
}

/// What answers in FeatBit's envelope.
fn enveloped() -> OpenApiRouter<Service> {
    OpenApiRouter::default()
        .routes(routes!(access_tokens::list, issuing::create))
        .routes(routes!(access_tokens::is_name_used))
        .routes(routes!(
            access_tokens::find,
            access_tokens::update,
            access_tokens::remove
        ))
        .routes(routes!(issuing::rotate))
        .routes(routes!(access_tokens::toggle))
        .routes(routes!(access_tokens::activate))
        .routes(routes!(access_tokens::deactivate))
        .routes(routes!(history::of_token))
        .routes(routes!(permissions::of_token))
        .routes(routes!(audit_logs::list))
        .routes(routes!(checkpoints::list))
        .routes(routes!(membership_events::take))
        .routes(routes!(parked::list))
        .routes(routes!(parked::retry))
        .routes(routes!(parked::drop))
        .routes(routes!(health::liveness))
        .routes(routes!(health::readiness))
        .routes(routes!(metrics::show))
        .routes(routes!(discovery::configuration))
        .merge(openapi::routes())
}

/// What answers AuthZEN's questions.
fn decisions() -> OpenApiRouter<Service> {
    OpenApiRouter::default()
        .routes(routes!(evaluation::evaluate))
        .routes(routes!(evaluation::evaluate_all))
        .routes(routes!(search::actions))
        .routes(routes!(search::resources))
        .routes(routes!(search::subjects))
}

/// What answers for a request that a gateway has in hand: whatever its method is.
fn forward_auth() -> OpenApiRouter<Service> {
    let ask = routes!(forward_auth::ask).map(|_| any(forward_auth::ask));
    OpenApiRouter::default().routes(ask)
}

/// What answers OAuth's question.
fn introspection() -> OpenApiRouter<Service> {
    OpenApiRouter::default().routes(routes!(introspection::introspect))
}

/// The service over HTTP.
fn router(service: Service) -> Router {
    let enveloped = Router::from(enveloped())
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn(bounded))
        .layer(cors(&service));
    // Envoy asks below it, at the path it has in hand.
    let forward_auth =
        Router::from(forward_auth()).nest("/forward-auth/", Router::new().fallback(forward_auth::ask));
    // These read their bodies themselves, to refuse them in the standard's form. No page of a browser asks them, and a
    // preflight that was answered for the one it is about would let it through a gateway.
    enveloped
        .merge(to_gateways(Form::AuthZen, decisions().into(), &service))
        .merge(to_gateways(Form::FeatBit, forward_auth, &service))
        .merge(to_gateways(Form::OAuth, introspection().into(), &service))
        .with_state(service)
}

/// For gateways alone, who are told in this form that they are none.
fn to_gateways(form: Form, routes: Router<Service>, service: &Service) -> Router<Service> {
    let admit = move |State(service): State<Service>, request: Request<Body>, next: Next| async move {
        let peer = peer(request.extensions());
        gateway::admit(form, &service, peer, request, async |request| {
            next.run(request).await
        })
        .await
    };
    routes
        .method_not_allowed_fallback(async move || form.wrong_method())
        .layer(from_fn_with_state(service.clone(), admit))
}

fn cors(service: &Service) -> CorsLayer {
    let origins = service.cors_origins.clone();
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(Any)
        // Not `*`: that leaves out `Authorization` (Fetch standard, CORS-preflight fetch).
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
}

/// Within the bounds of a request: of its headers, of its body, and of the time that it may take.
async fn bounded(request: Request<Body>, next: Next) -> Response {
    if too_large(&request) {
        return Problem::TooLarge.into_response();
    }
    // Every body is read before anything is answered, whoever sends it and whether or not the route looks at it: a sender
    // that is still sending when the answer comes may never see it.
    let answered = async {
        let (parts, body) = request.into_parts();
        let body = body::read(body).await?;
        Ok::<_, Problem>(next.run(Request::from_parts(parts, body.into())).await)
    };
    within(LIMIT, answered)
        .await
        .unwrap_or_else(Problem::into_response)
}

/// Are its headers and its path together?
fn too_large<B>(request: &Request<B>) -> bool {
    let path = request
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()).saturating_add(4));
    headers.fold(path, usize::saturating_add) > MAX_HEADERS
}

/// The caller's name for the request, if it has one that can be written down (no secret can), or else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    const MAX: usize = 128;
    headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|value| !value.is_empty() && value.len() <= MAX && !Secret::is_in(value))
        .map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned)
}

/// Waits for the position that is asked for; where it is not reached in time, the decision says so.
async fn reach(service: &Service, position: i64) {
    if service.index.position() < position {
        service.index.reached(position, POSITION_PATIENCE).await;
    }
}

/// The position a caller wants to see at least, from `X-At-Least-Position`; 0 where it doesn't say.
fn at_least_position(headers: &HeaderMap) -> Result<i64, Problem> {
    if !headers.contains_key(&AT_LEAST_POSITION) {
        return Ok(0);
    }
    single(headers, AT_LEAST_POSITION)
        .and_then(|text| text.parse::<i64>().ok())
        .filter(|position| *position >= 0)
        .ok_or(Problem::Invalid(vec!["at_least_position_is_invalid"]))
}

/// Waits until the read models hold what the caller has to see: the position it names, and everything this node has
/// appended.
async fn seen_by(service: &Service, headers: &HeaderMap) -> Result<(), Problem> {
    let vitals = &service.vitals;
    if vitals.read_models_reach(vitals.appended(), OWN_PATIENCE).await
        && vitals
            .read_models_reach(at_least_position(headers)?, POSITION_PATIENCE)
            .await
    {
        Ok(())
    } else {
        Err(Problem::Unavailable)
    }
}
