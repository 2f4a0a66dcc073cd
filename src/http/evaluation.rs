//! AuthZEN 1.0: may this subject do this on that? Answered from the index, without IO. Errors are 400 with a JSON string,
//! as the standard's HTTPS binding shows them; a deny is a 200.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::authorization::{Question, Reason};
use domain::ids::{OrganizationId, TokenId};
use domain::secret::Secret;
use serde::Serialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::Service;
use super::body::{UnreadableBody, is_json, read, whole_number};
use super::failed_attempts::TooManyFailures;
use super::openapi::{DECISIONS, problems, questions};
use crate::authorization::Subject;

/// How long a question waits for the position it asks for.
const POSITION_PATIENCE: Duration = Duration::from_millis(250);

#[derive(Serialize, ToSchema)]
#[schema(as = Decision, example = json!({
    "decision": true, "context": { "position": 5, "reason": "allowed", "statementId": "developer-flag" },
}))]
struct EvaluationBody<'a> {
    /// True: it may.
    decision: bool,
    context: ContextBody<'a>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DecisionContext)]
struct ContextBody<'a> {
    /// The position in the log up to which the decision reflects it.
    #[schema(minimum = 0)]
    position: i64,
    #[schema(schema_with = questions::reason)]
    reason: Reason,
    /// The id of the statement that allows or denies it, where one does and has an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement_id: Option<&'a str>,
}

/// `POST /access/v1/evaluation`
#[utoipa::path(
    post, path = "/access/v1/evaluation", tag = DECISIONS, operation_id = "evaluate", security((), ("gatewayKey" = [])),
    summary = "May this subject do this on that?",
    description = "A deny is a 200. Answered from memory.",
    request_body = questions::Evaluation,
    responses(
        (status = 200, description = "The decision.", body = EvaluationBody),
        problems::OfDecisions,
    ),
)]
pub(super) async fn evaluate(State(service): State<Service>, evaluation: Evaluation) -> Response {
    service
        .index
        .reached(evaluation.at_least, POSITION_PATIENCE)
        .await;
    let question = Question {
        action: &evaluation.action,
        resource: &evaluation.resource,
        organization_id: evaluation.organization_id,
        address: evaluation.address,
        now: service.clock.now(),
    };
    service.index.decide(
        &evaluation.subject,
        &question,
        evaluation.at_least,
        |position, answer| {
            let statement_id = answer.statement.and_then(|statement| statement.id.as_deref());
            let context = ContextBody {
                position,
                reason: answer.reason,
                statement_id,
            };
            Json(EvaluationBody {
                decision: answer.is_allowed(),
                context,
            })
            .into_response()
        },
    )
}

/// Lets through who has one of the gateway keys, or everybody where none is set.
pub(super) async fn require_gateway_key(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response {
    let presented = request
        .headers()
        .get("x-gateway-key")
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let is_known = service
        .gateway_keys
        .iter()
        .any(|key| bool::from(key.as_bytes().ct_eq(presented)));
    if service.gateway_keys.is_empty() || is_known {
        next.run(request).await
    } else {
        let (parts, body) = request.into_parts();
        // Or else its sender, still sending, may never see the answer.
        let _ = read(body).await;
        match service.count_failure(&parts.extensions, &parts.headers) {
            Ok(()) => refuse(StatusCode::UNAUTHORIZED, "a valid X-Gateway-Key is required"),
            Err(TooManyFailures { retry_after }) => {
                let message = "too many requests without a valid X-Gateway-Key";
                let refusal = refuse(StatusCode::TOO_MANY_REQUESTS, message);
                ([(RETRY_AFTER, HeaderValue::from(retry_after))], refusal).into_response()
            }
        }
    }
}

/// A question as it was asked.
#[derive(Debug)]
pub(super) struct Evaluation {
    subject: Subject,
    action: String,
    resource: String,
    organization_id: Option<OrganizationId>,
    address: Option<IpAddr>,
    at_least: i64,
}

/// An error in the standard's form.
fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(message)).into_response()
}

impl FromRequest<Service> for Evaluation {
    type Rejection = Response;

    async fn from_request(request: Request, _: &Service) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let body = read_json(body).await?;
        if !is_json(&parts.headers) {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "Content-Type must be application/json",
            ));
        }
        Self::parse(&body).map_err(|message| refuse(StatusCode::BAD_REQUEST, &message))
    }
}

async fn read_json(body: Body) -> Result<Value, Response> {
    let bytes = read(body).await.map_err(|error| match error {
        UnreadableBody::TooLarge => refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        UnreadableBody::Broken => refuse(StatusCode::BAD_REQUEST, "the body could not be read"),
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {error}")))
}

impl Evaluation {
    fn parse(body: &Value) -> Result<Self, String> {
        let body = body.as_object().ok_or("the body must be a JSON object")?;
        let resource = object(body, "resource")?;
        text(resource, "resource", "type")?;
        let context = optional_object(body, "context", "context")?;
        if let Some(later) = ["atPosition", "atTime"]
            .iter()
            .find(|name| context.is_some_and(|c| c.contains_key(**name)))
        {
            return Err(format!("context.{later} is not supported yet"));
        }
        Ok(Self {
            subject: subject(object(body, "subject")?)?,
            action: text(object(body, "action")?, "action", "name")?.to_owned(),
            resource: text(resource, "resource", "id")?.to_owned(),
            organization_id: organization(resource)?,
            address: context
                .and_then(|context| context.get("ipAddress"))
                .and_then(Value::as_str)
                .and_then(|address| address.trim().parse().ok()),
            at_least: at_least(context)?,
        })
    }
}

/// Whoever is meant; a form that names nobody is unknown, not an error.
fn subject(subject: &Map<String, Value>) -> Result<Subject, String> {
    let kind = text(subject, "subject", "type")?;
    let id = text(subject, "subject", "id")?;
    match kind {
        "access_token" => Ok(match id.parse::<TokenId>() {
            Ok(token_id) => Subject::Token(token_id),
            Err(_) => Secret::parse(id).map_or(Subject::Unknown, Subject::Secret),
        }),
        "member" => {
            let properties = optional_object(subject, "properties", "subject.properties")?
                .ok_or("subject.properties is required")?;
            let organization_id = text(properties, "subject.properties", "organizationId")?;
            Ok(match (organization_id.parse(), id.parse()) {
                (Ok(organization_id), Ok(member_id)) => Subject::Member(organization_id, member_id),
                _ => Subject::NoMember,
            })
        }
        _ => Ok(Subject::Unknown),
    }
}

/// An organization that can't be one matches nothing: the nil uuid is nobody's.
fn organization(resource: &Map<String, Value>) -> Result<Option<OrganizationId>, String> {
    let Some(properties) = optional_object(resource, "properties", "resource.properties")? else {
        return Ok(None);
    };
    match properties.get("organizationId") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(
            text.parse().unwrap_or(OrganizationId::from(uuid::Uuid::nil())),
        )),
        Some(_) => Err("resource.properties.organizationId must be a string".to_owned()),
    }
}

fn at_least(context: Option<&Map<String, Value>>) -> Result<i64, String> {
    match context.and_then(|context| context.get("atLeastPosition")) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => whole_number(value)
            .filter(|position| *position >= 0)
            .ok_or_else(|| "context.atLeastPosition must be a position, from 0".to_owned()),
    }
}

fn object<'a>(of: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>, String> {
    optional_object(of, name, name)?.ok_or_else(|| format!("{name} is required"))
}

fn optional_object<'a>(
    of: &'a Map<String, Value>,
    name: &str,
    path: &str,
) -> Result<Option<&'a Map<String, Value>>, String> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields)),
        Some(_) => Err(format!("{path} must be an object")),
    }
}

fn text<'a>(of: &'a Map<String, Value>, path: &str, name: &str) -> Result<&'a str, String> {
    match of.get(name) {
        None | Some(Value::Null) => Err(format!("{path}.{name} is required")),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{path}.{name} must be a string")),
    }
}
