//! AuthZEN's searches: what may this subject do on that, where may it do this, and which tokens may. What is found would be
//! allowed, were it asked. Pages are cut by name or by order of creation, so that they don't shift; a page that was asked for
//! otherwise than the one before is refused.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::authorization::{Question, Reason};
use domain::policy::built_in::KNOWN_ACTIONS;
use serde::Serialize;
use utoipa::ToSchema;

use super::gateway::refuse;
use super::openapi::{DECISIONS, problems, questions, schemas};
use super::question::{QuestionBody, Search, Sought};
use super::{Service, reach};
use crate::authorization::search::{Page, page};

/// A page of what was found.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundBody<T> {
    page: PageBody,
    context: SearchContextBody,
    #[schema(max_items = 100)]
    results: Vec<T>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SearchPage)]
struct PageBody {
    /// For `page.token` of the next request; empty where there is no more.
    next_token: String,
    /// Results in this page; it may be fewer than the limit, and none, though there are more.
    count: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FoundContext)]
struct SearchContextBody {
    /// The position in the log up to which the results reflect it.
    #[schema(minimum = 0)]
    position: i64,
    /// Why nothing is found, where that is all there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::stale)]
    reason: Option<Reason>,
}

/// An action.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundAction)]
pub(super) struct FoundAction {
    name: String,
}

/// A resource, or a pattern of resources.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundEntity)]
pub(super) struct FoundEntity {
    r#type: String,
    id: String,
}

/// `POST /access/v1/search/action`
#[utoipa::path(
    post, path = "/access/v1/search/action", tag = DECISIONS, operation_id = "searchActions",
    security((), ("gatewayKey" = [])),
    summary = "What may this subject do on that?",
    description = "Of FeatBit's actions and of those that the subject's statements name, in alphabetical order.",
    request_body = questions::ActionSearch,
    responses((status = 200, description = "A page of them.", body = FoundBody<FoundAction>), problems::OfDecisions),
)]
pub(super) async fn actions(State(service): State<Service>, body: QuestionBody) -> Response {
    let found = search(
        &service,
        &body,
        Sought::Action,
        |service: &Service, asked: &Search<'_>| {
            let Some(seen) = service.index.see(&asked.subject) else {
                return Ok(Page {
                    found: Vec::new(),
                    last: None,
                });
            };
            let (mut candidates, _) = seen.names();
            candidates.extend(KNOWN_ACTIONS.iter().map(|action| (*action).to_owned()));
            Ok(page(&candidates, asked.after.as_deref(), asked.limit, |action| {
                seen.may(&asked.question(service, action, asked.resource))
            }))
        },
    );
    found.await.map_or_else(
        |refused| refused,
        |found| found.answer(|name| FoundAction { name }),
    )
}

/// `POST /access/v1/search/resource`
#[utoipa::path(
    post, path = "/access/v1/search/resource", tag = DECISIONS, operation_id = "searchResources",
    security((), ("gatewayKey" = [])),
    summary = "On what may this subject do this?",
    description = "This service does not know which resources there are: what is found are the names, and the patterns of \
                   names, in the subject's statements, whose last segment is of the type asked for, or `*`. Each would be \
                   allowed as it stands.",
    request_body = questions::ResourceSearch,
    responses((status = 200, description = "A page of them.", body = FoundBody<FoundEntity>), problems::OfDecisions),
)]
pub(super) async fn resources(State(service): State<Service>, body: QuestionBody) -> Response {
    let found = search(
        &service,
        &body,
        Sought::Resource,
        |service: &Service, asked: &Search<'_>| {
            let Some(seen) = service.index.see(&asked.subject) else {
                return Ok(Page {
                    found: Vec::new(),
                    last: None,
                });
            };
            let (_, resources) = seen.names();
            let of_type = |name: &String| is_of_type(name, asked.resource_type);
            let candidates: BTreeSet<String> = resources.into_iter().filter(of_type).collect();
            Ok(page(
                &candidates,
                asked.after.as_deref(),
                asked.limit,
                |resource| seen.may(&asked.question(service, asked.action, resource)),
            ))
        },
    );
    let found = match found.await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let kind = found.resource_type.clone();
    let entity = |id| FoundEntity {
        r#type: kind.clone(),
        id,
    };
    found.answer(entity)
}

/// `POST /access/v1/search/subject`
#[utoipa::path(
    post, path = "/access/v1/search/subject", tag = DECISIONS, operation_id = "searchSubjects",
    security((), ("gatewayKey" = [])),
    summary = "Which tokens may do this on that?",
    description = "Of the organization that `resource.properties.organizationId` names, oldest first; subjects of other types \
                   are not searched. Only where the service has gateway keys: 401 otherwise.",
    request_body = questions::SubjectSearch,
    responses((status = 200, description = "A page of them, by their ids.", body = FoundBody<FoundEntity>), problems::OfDecisions),
)]
pub(super) async fn subjects(State(service): State<Service>, body: QuestionBody) -> Response {
    if service.gateway_keys.is_empty() {
        let message = "subjects are searched only where GATEWAY_KEYS is set";
        return refuse(StatusCode::UNAUTHORIZED, message);
    }
    let found = search(
        &service,
        &body,
        Sought::Subject,
        |service: &Service, asked: &Search<'_>| {
            let organization_id = asked
                .organization_id
                .ok_or_else(|| "resource.properties.organizationId is required".to_owned())?;
            let from = match &asked.after {
                Some(place) => place
                    .parse()
                    .map_err(|_| "page.token is of another search".to_owned())?,
                None => 0,
            };
            if !asked.seeks_tokens {
                return Ok(Page {
                    found: Vec::new(),
                    last: None,
                });
            }
            let question = asked.question(service, asked.action, asked.resource);
            let (tokens, next) = service
                .index
                .tokens_that_may(organization_id, &question, from, asked.limit);
            Ok(Page {
                found: tokens.iter().map(ToString::to_string).collect(),
                last: next.map(|place| place.to_string()),
            })
        },
    );
    let entity = |id| FoundEntity {
        r#type: "access_token".to_owned(),
        id,
    };
    found
        .await
        .map_or_else(|refused| refused, |found| found.answer(entity))
}

/// What was found, and how it goes on.
struct Found {
    page: Page<String>,
    position: i64,
    is_stale: bool,
    /// Of the request, for the token of its next page.
    digest: String,
    resource_type: String,
}

async fn search(
    service: &Service,
    body: &QuestionBody,
    sought: Sought,
    find: impl FnOnce(&Service, &Search<'_>) -> Result<Page<String>, String>,
) -> Result<Found, Response> {
    let wrong = |message: String| refuse(StatusCode::BAD_REQUEST, &message);
    let search = body.search().map_err(wrong)?;
    let asked = search.asked(sought, body.at_least).map_err(wrong)?;
    reach(service, asked.at_least).await;
    // Before anything is looked up, both: what is found can only be newer, and has to be known up to now.
    let pass = service.index.fence().pass();
    let position = service.index.position();
    let page = find(service, &asked).map_err(wrong)?;
    let is_stale = position < asked.at_least || !service.index.fence().holds(pass);
    Ok(Found {
        page,
        position,
        is_stale,
        digest: asked.digest,
        resource_type: asked.resource_type.to_owned(),
    })
}

impl Found {
    fn answer<T: Serialize>(self, result: impl FnMut(String) -> T) -> Response {
        let Page { found, last } = match self.is_stale {
            false => self.page,
            true => Page {
                found: Vec::new(),
                last: None,
            },
        };
        let next_token = last.map(|last| format!("{}.{}", self.digest, hex::encode(last)));
        let body = FoundBody {
            page: PageBody {
                next_token: next_token.unwrap_or_default(),
                count: found.len(),
            },
            context: SearchContextBody {
                position: self.position,
                reason: self.is_stale.then_some(Reason::StaleReplica),
            },
            results: found.into_iter().map(result).collect(),
        };
        Json(body).into_response()
    }
}

impl Search<'_> {
    fn question<'q>(&self, service: &Service, action: &'q str, resource: &'q str) -> Question<'q> {
        Question {
            action,
            resource,
            organization_id: self.organization_id,
            address: self.address,
            now: service.clock.now(),
        }
    }
}

/// Is a name, or a pattern, one of resources of this type? `*` is of every type.
fn is_of_type(name: &str, kind: &str) -> bool {
    let (_, last) = name.rsplit_once(':').unwrap_or(("", name));
    name == "*" || last.split_once('/').is_some_and(|(of, _)| of == kind)
}
