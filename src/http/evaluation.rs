//! AuthZEN 1.0: may this subject do this on that? Answered from the index, without IO, unless it is asked for the past or for
//! an explanation. Errors are 400 with a JSON string, as the standard's HTTPS binding shows them; a deny is a 200.

use std::borrow::Cow;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::authorization::{Answer, Question, Reason};
use domain::policy::StatementId;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::gateway::refuse;
use super::openapi::{DECISIONS, problems, questions};
use super::past::{PATIENCE, SayBody, recall};
use super::question::{Asked, QuestionBody, Semantic};
use super::{Service, reach};

/// Where a single question is asked.
pub(super) const PATH: &str = "/access/v1/evaluation";

#[derive(Serialize, ToSchema)]
#[schema(as = Decision, example = json!({
    "decision": true, "context": { "position": 5, "reason": "allowed", "statementId": "developer-flag" },
}))]
pub(super) struct EvaluationBody<'a> {
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
    #[schema(value_type = Option<String>)]
    statement_id: Option<Cow<'a, StatementId>>,
    /// Where it was asked to explain: every statement that has a say, or had before it was revoked, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    statements: Option<Vec<SayBody>>,
}

/// One for each question, in order, up to where the semantic stops.
#[derive(Serialize, ToSchema)]
#[schema(as = Decisions)]
pub(super) struct EvaluationsBody {
    #[schema(min_items = 1, max_items = 512)]
    evaluations: Vec<ItemBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = OneOfTheDecisions)]
enum ItemBody {
    Decided(EvaluationBody<'static>),
    Failed(FailedBody),
}

/// A question that could not be asked is denied.
#[derive(Serialize, ToSchema)]
#[schema(as = FailedDecision, example = json!({
    "decision": false, "context": { "error": { "status": 400, "message": "resource.id is required" } },
}))]
struct FailedBody {
    #[schema(schema_with = questions::denied)]
    decision: bool,
    context: FailedContextBody,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FailedDecisionContext)]
struct FailedContextBody {
    error: ErrorBody,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DecisionError)]
struct ErrorBody {
    #[schema(minimum = 400, maximum = 400)]
    status: u16,
    /// What is wrong with the question.
    message: String,
}

/// `POST /access/v1/evaluation`
#[utoipa::path(
    post, path = "/access/v1/evaluation", tag = DECISIONS, operation_id = "evaluate", security((), ("gatewayKey" = [])),
    summary = "May this subject do this on that?",
    description = "A deny is a 200. Answered from memory; from the log where it is asked for another time, or to explain.",
    request_body = questions::Evaluation,
    responses(
        (status = 200, description = "The decision.", body = EvaluationBody),
        problems::OfDecisions,
    ),
)]
pub(super) async fn evaluate(State(service): State<Service>, request: Request<Body>) -> Response {
    answer(&service, request).await
}

/// The decision that the request asks for.
pub(super) async fn answer<B: HttpBody<Data = Bytes> + Unpin>(
    service: &Service,
    request: Request<B>,
) -> Response {
    let body = match QuestionBody::of(request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let question = match body.question() {
        Ok(question) => question,
        Err(wrong) => return invalid(&wrong),
    };
    match question.asked(body.at_least) {
        Ok(asked) => decide_one(service, &asked).await,
        Err(wrong) => invalid(&wrong),
    }
}

/// `POST /access/v1/evaluations`
#[utoipa::path(
    post, path = "/access/v1/evaluations", tag = DECISIONS, operation_id = "evaluateAll",
    security((), ("gatewayKey" = [])),
    summary = "The same for up to 512 questions",
    description = "What stands at the top holds for each of `evaluations` that does not say otherwise: whole objects, never a \
                   field of them. Without `evaluations`, or with none in it, the request is one question, and answered as \
                   one. A question in error is `decision: false` with `context.error`, and the others are answered all the \
                   same.",
    request_body = questions::Evaluations,
    responses(
        (status = 200, description = "The decisions, in order; of a single question, its own.", body = questions::Decided),
        problems::OfDecisions,
    ),
)]
pub(super) async fn evaluate_all(State(service): State<Service>, body: QuestionBody) -> Response {
    let questions = match body.questions() {
        Ok(questions) => questions,
        Err(wrong) => return invalid(&wrong),
    };
    if let Some(question) = questions.single() {
        return match question.asked(body.at_least) {
            Ok(asked) => decide_one(&service, &asked).await,
            Err(wrong) => invalid(&wrong),
        };
    }
    // Waited for once, for the latest that any of them wants to see.
    let asked: Vec<Result<Asked<'_>, String>> = questions.asked(body.at_least).collect();
    let at_least = asked.iter().flatten().map(|asked| asked.at_least).max();
    reach(&service, at_least.unwrap_or(0)).await;
    let deadline = Instant::now() + PATIENCE;
    let mut evaluations = Vec::with_capacity(asked.len());
    for asked in asked {
        let decided = match asked {
            Ok(asked) if asked.is_live() => {
                Ok(decide(&service, &asked, |evaluation| evaluation.into_owned()))
            }
            Ok(asked) => from_log(&service, &asked, deadline).await,
            Err(wrong) => Err(wrong),
        };
        let item = decided.map_or_else(ItemBody::failed, ItemBody::Decided);
        let ends = item.ends(questions.semantic);
        evaluations.push(item);
        if ends {
            break;
        }
    }
    Json(EvaluationsBody { evaluations }).into_response()
}

async fn decide_one(service: &Service, asked: &Asked<'_>) -> Response {
    if asked.is_live() {
        reach(service, asked.at_least).await;
        return decide(service, asked, |evaluation| Json(evaluation).into_response());
    }
    match from_log(service, asked, Instant::now() + PATIENCE).await {
        Ok(evaluation) => Json(evaluation).into_response(),
        Err(wrong) => invalid(&wrong),
    }
}

async fn from_log(
    service: &Service,
    asked: &Asked<'_>,
    deadline: Instant,
) -> Result<EvaluationBody<'static>, String> {
    let recalled = recall(service, asked, deadline).await?;
    let says = recalled.says.into_iter().map(SayBody::from);
    Ok(EvaluationBody {
        decision: recalled.reason == Reason::Allowed,
        context: ContextBody {
            position: recalled.position,
            reason: recalled.reason,
            statement_id: recalled.statement_id.map(Cow::Owned),
            statements: asked.explains.then(|| says.collect()),
        },
    })
}

fn decide<T>(service: &Service, asked: &Asked<'_>, answer: impl FnOnce(EvaluationBody<'_>) -> T) -> T {
    let question = Question {
        action: asked.action,
        resource: asked.resource,
        organization_id: asked.organization_id,
        address: asked.address,
        now: service.clock.now(),
    };
    let body = |position, found: Answer<'_>| answer(EvaluationBody::new(position, &found));
    service
        .index
        .decide(&asked.subject, &question, asked.at_least, body)
}

fn invalid(message: &str) -> Response {
    refuse(StatusCode::BAD_REQUEST, message)
}

impl<'a> EvaluationBody<'a> {
    fn new(position: i64, answer: &Answer<'a>) -> Self {
        Self {
            decision: answer.is_allowed(),
            context: ContextBody {
                position,
                reason: answer.reason,
                statement_id: answer.statement_id.map(Cow::Borrowed),
                statements: None,
            },
        }
    }

    fn into_owned(self) -> EvaluationBody<'static> {
        let statement_id = self.context.statement_id;
        EvaluationBody {
            decision: self.decision,
            context: ContextBody {
                position: self.context.position,
                reason: self.context.reason,
                statement_id: statement_id.map(|id| Cow::Owned(id.into_owned())),
                statements: self.context.statements,
            },
        }
    }
}

impl ItemBody {
    fn failed(message: String) -> Self {
        let status = StatusCode::BAD_REQUEST.as_u16();
        Self::Failed(FailedBody {
            decision: false,
            context: FailedContextBody {
                error: ErrorBody { status, message },
            },
        })
    }

    /// Is nothing answered after this one?
    fn ends(&self, semantic: Semantic) -> bool {
        let is_allowed = matches!(self, Self::Decided(EvaluationBody { decision: true, .. }));
        match semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !is_allowed,
            Semantic::PermitOnFirstPermit => is_allowed,
        }
    }
}
