//! Membership events over HTTP, for installations without Kafka: CloudEvents, one or a batch. Once they are read out of the
//! body they go the way of the topic's: the same code understands them, takes them, or sets them aside.

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Service;
use super::body::read;
use super::caller::single;
use super::client_address::peer;
use super::confirming::{Wait, confirmed};
use super::envelope::done;
use super::gateway::is_one_of;
use super::openapi::schemas::Success;
use super::openapi::{MEMBERSHIP, cloud_events, parameters, problems};
use super::problem::Problem;
use crate::commands::membership::{About, Message, Poll, RawMessage, Taken};
use crate::commands::{Done, Effect};
use crate::intake::IntakeState;
use crate::intake::member_events::understand;

const INTAKE_KEY: HeaderName = HeaderName::from_static("x-intake-key");

/// Events in one batch.
const MAX_EVENTS: usize = 1000;
/// The media types of CloudEvents 1.0 in HTTP (its HTTP protocol binding, 3.2 and 3.3).
const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// What became of the events.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TakenEvents)]
pub(super) struct TakenBody {
    /// Changed a member.
    applied: usize,
    /// Were taken before: known by their `source` and `id`.
    repeated: usize,
    /// Changed nothing: overtaken by what is known.
    stale: usize,
    /// Could not be used and were set aside: whoever they are about is denied until they are released.
    parked: usize,
}

/// `POST /membership/events`
#[utoipa::path(
    post, path = "/api/v1/membership/events", tag = MEMBERSHIP, operation_id = "sendMembershipEvents",
    security(("intakeKey" = [])),
    summary = "Tell what has happened to members",
    description = "CloudEvents 1.0, as the membership topic has them: one, or a batch of at most 1,000, in their order. An \
                   event with a known `source` and `id` changes nothing, so a request that was not answered, or failed \
                   after some of them were taken, can be sent again as it was. One that can't be used is set aside, as in the topic. Where the service \
                   reads a topic too, `version` is required: there is no order between the two. Answered when every event \
                   is in the log and no node decides without knowing it.",
    params(parameters::Wait),
    request_body(content(
        (cloud_events::CloudEvent = "application/cloudevents+json"),
        (Vec<cloud_events::CloudEvent> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "They are in the log.", body = Success<TakenBody>, headers(
            ("X-Log-Position" = i64, description = "The position of the last of them, or one after it."),
            ("X-Confirmed-Nodes" = i64, description = "How many nodes said that they know, where the answer waited for them."),
            ("X-Confirmed-In-Ms" = i64, description = "How long that took, in milliseconds."),
        )),
        problems::MembershipEvents,
    ),
)]
pub(super) async fn take(
    State(service): State<Service>,
    _: IntakeKey,
    wait: Wait,
    Events(messages): Events,
) -> Result<Response, Problem> {
    let reads_a_topic = *service.vitals.intake.borrow() != IntakeState::Off;
    if reads_a_topic && messages.iter().any(needs_a_version) {
        return Err(Problem::Invalid(vec!["version_is_required"]));
    }
    let poll = Poll {
        messages,
        offset: None,
    };
    let taken = service.commands.take_poll(&poll).await?;
    // Also where all of them were known before: whoever sent them first may not have been told that every node knows.
    let taken = Done {
        position: taken.position,
        effect: Effect::TakesAway,
        value: taken,
    };
    let confirmation = service.confirm(&taken, wait).await?;
    let response = done(taken.position, TakenBody::from(taken.value));
    Ok(confirmed(response, confirmation))
}

impl From<Taken> for TakenBody {
    fn from(taken: Taken) -> Self {
        Self {
            applied: taken.applied,
            repeated: taken.repeated,
            stale: taken.stale,
            parked: taken.parked,
        }
    }
}

/// Only its order of arrival says where it stands.
fn needs_a_version(message: &Message) -> bool {
    message
        .meaning
        .as_ref()
        .is_ok_and(|event| matches!(event.about, About::Member { version: None, .. }))
}

/// Somebody who may send events: holds one of the intake keys.
pub(super) struct IntakeKey;

impl FromRequestParts<Service> for IntakeKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Problem> {
        if service.intake_keys.is_empty() {
            return Err(Problem::NotFound);
        }
        let presented = single(&parts.headers, INTAKE_KEY);
        if presented.is_some_and(|presented| is_one_of(&service.intake_keys, presented)) {
            return Ok(Self);
        }
        Err(service
            .count_failure(peer(&parts.extensions), &parts.headers)
            .map_or_else(Problem::TooManyRequests, |()| Problem::Unauthorized))
    }
}

/// The events of a body, each with the bytes it came in.
pub(super) struct Events(Vec<Message>);

impl FromRequest<Service> for Events {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Service) -> Result<Self, Problem> {
        let media_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map(|media_type| media_type.trim().to_ascii_lowercase());
        let body = read(request.into_body()).await?;
        let invalid = |code| Problem::Invalid(vec![code]);
        let events: Vec<&RawValue> = match media_type.as_deref() {
            Some(SINGLE) => serde_json::from_slice(&body).map(|event| vec![event]),
            Some(BATCH) => serde_json::from_slice(&body),
            _ => return Err(invalid("content_type_is_invalid")),
        }
        .map_err(|_| invalid("body_is_invalid"))?;
        if events.len() > MAX_EVENTS {
            return Err(invalid("too_many_events"));
        }
        if !events.iter().all(|event| event.get().starts_with('{')) {
            return Err(invalid("body_is_invalid"));
        }
        Ok(Self(events.into_iter().map(message).collect()))
    }
}

fn message(event: &RawValue) -> Message {
    understand(RawMessage {
        headers: vec![("content-type".to_owned(), SINGLE.to_owned())],
        payload: Some(event.get().as_bytes().to_vec()),
        ..RawMessage::default()
    })
}
