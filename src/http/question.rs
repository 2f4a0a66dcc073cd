//! Questions of AuthZEN, from the bytes of a body to what can be decided. A field that is missing or of another type is
//! named; one that nobody knows is ignored. Texts stay in the body they came in.

use std::borrow::Cow;
use std::net::IpAddr;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::FromRequest;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use chrono::DateTime;
use domain::ids::{OrganizationId, TokenId};
use domain::secret::SecretDigest;
use serde::Deserialize;
use serde::de::MapAccess;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::body::{UnreadableBody, is_json, read};
use super::field::{Field, FromJson, Items, object, read_object};
use super::gateway::refuse;
use super::past::When;
use super::{Service, at_least_position};
use crate::authorization::Subject;

/// Questions of one request.
pub(super) const MAX_EVALUATIONS: usize = 512;
/// Bytes of a resource's name: each of hundreds of questions may be matched against thousands of patterns.
const MAX_RESOURCE: usize = 8 * 1024;
/// Results of one page of a search.
const MAX_RESULTS: usize = 100;

const OBJECT: &str = "an object";
const STRING: &str = "a string";
const POSITION: &str = "a position, from 0";
const TIME: &str = "a time, as RFC 3339 has it";

/// A body that says it is JSON, and the position its sender wants to see at least.
#[derive(Debug)]
pub(super) struct QuestionBody {
    bytes: Bytes,
    /// From the header; 0 where it names none.
    pub(super) at_least: i64,
}

impl FromRequest<Service> for QuestionBody {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, _: &Service) -> Result<Self, Response> {
        Self::of(request).await
    }
}

impl QuestionBody {
    /// What the request asks; a response where that can't be read.
    pub(super) async fn of<B: HttpBody<Data = Bytes> + Unpin>(request: Request<B>) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await.map_err(|error| match error {
            UnreadableBody::TooLarge => refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            UnreadableBody::Broken => refuse(StatusCode::BAD_REQUEST, "the body could not be read"),
        })?;
        let wrong = |message| refuse(StatusCode::BAD_REQUEST, message);
        if !is_json(&parts.headers) {
            return Err(wrong("Content-Type must be application/json"));
        }
        let at_least = at_least_position(&parts.headers)
            .map_err(|_| wrong("X-At-Least-Position must be a position, from 0"))?;
        Ok(Self { bytes, at_least })
    }
}

/// A question that can be decided.
#[derive(Debug)]
pub(super) struct Asked<'q> {
    pub(super) subject: Subject,
    pub(super) action: &'q str,
    pub(super) resource: &'q str,
    pub(super) organization_id: Option<OrganizationId>,
    pub(super) address: Option<IpAddr>,
    pub(super) at_least: i64,
    pub(super) when: When,
    /// Every statement that has a say is wanted.
    pub(super) explains: bool,
}

impl Asked<'_> {
    /// Can it be answered from memory?
    pub(super) fn is_live(&self) -> bool {
        self.when == When::Now && !self.explains
    }
}

/// A question as it came.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Question<'a> {
    #[serde(borrow, default)]
    subject: Field<SubjectBody<'a>>,
    #[serde(borrow, default)]
    action: Field<ActionBody<'a>>,
    #[serde(borrow, default)]
    resource: Field<ResourceBody<'a>>,
    #[serde(borrow, default)]
    context: Field<ContextBody<'a>>,
}

#[derive(Debug, Deserialize)]
struct SubjectBody<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Field<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Field<Cow<'a, str>>,
    #[serde(borrow, default)]
    properties: Field<Properties<'a>>,
}

#[derive(Debug, Deserialize)]
struct ActionBody<'a> {
    #[serde(borrow, default)]
    name: Field<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct ResourceBody<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Field<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Field<Cow<'a, str>>,
    #[serde(borrow, default)]
    properties: Field<Properties<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties<'a> {
    #[serde(borrow, default)]
    organization_id: Field<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContextBody<'a> {
    #[serde(default)]
    at_least_position: Field<i64>,
    #[serde(borrow, default)]
    ip_address: Field<Cow<'a, str>>,
    #[serde(default)]
    at_position: Field<i64>,
    #[serde(borrow, default)]
    at_time: Field<Cow<'a, str>>,
    #[serde(default)]
    explain: Field<bool>,
}

/// Several questions as they came: what stands at the top holds for each that does not say otherwise.
#[derive(Debug)]
pub(super) struct Questions<'a> {
    defaults: Question<'a>,
    items: Vec<Field<Question<'a>>>,
    pub(super) semantic: Semantic,
}

/// Which of several questions are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Semantic {
    /// All.
    #[default]
    ExecuteAll,
    /// Up to the first that is denied, or can't be asked.
    DenyOnFirstDeny,
    /// Up to the first that is allowed.
    PermitOnFirstPermit,
}

#[derive(Debug, Deserialize)]
struct QuestionsBody<'a> {
    #[serde(borrow, default)]
    subject: Field<SubjectBody<'a>>,
    #[serde(borrow, default)]
    action: Field<ActionBody<'a>>,
    #[serde(borrow, default)]
    resource: Field<ResourceBody<'a>>,
    #[serde(borrow, default)]
    context: Field<ContextBody<'a>>,
    #[serde(borrow, default)]
    evaluations: Field<Items<Question<'a>, MAX_EVALUATIONS>>,
    #[serde(borrow, default)]
    options: Field<OptionsBody<'a>>,
}

#[derive(Debug, Deserialize)]
struct OptionsBody<'a> {
    #[serde(borrow, default)]
    evaluations_semantic: Field<Cow<'a, str>>,
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sought {
    Subject,
    Action,
    Resource,
}

/// A search as it came.
#[derive(Debug, Deserialize)]
pub(super) struct SearchBody<'a> {
    #[serde(borrow, default)]
    subject: Field<SubjectBody<'a>>,
    #[serde(borrow, default)]
    action: Field<ActionBody<'a>>,
    #[serde(borrow, default)]
    resource: Field<ResourceBody<'a>>,
    #[serde(borrow, default)]
    context: Field<ContextBody<'a>>,
    #[serde(borrow, default)]
    page: Field<PageBody<'a>>,
}

#[derive(Debug, Deserialize)]
struct PageBody<'a> {
    #[serde(borrow, default)]
    token: Field<Cow<'a, str>>,
    #[serde(default)]
    limit: Field<i64>,
}

/// A search that can be done. What is searched for is empty.
#[derive(Debug)]
pub(super) struct Search<'q> {
    pub(super) subject: Subject,
    /// Tokens are searched for, not other subjects.
    pub(super) seeks_tokens: bool,
    pub(super) action: &'q str,
    pub(super) resource: &'q str,
    pub(super) resource_type: &'q str,
    pub(super) organization_id: Option<OrganizationId>,
    pub(super) address: Option<IpAddr>,
    pub(super) at_least: i64,
    /// Results of a page.
    pub(super) limit: usize,
    /// What the page before ended with.
    pub(super) after: Option<String>,
    /// Of everything but the page's token: all pages are of one search.
    pub(super) digest: String,
}

/// Each of these is made of a JSON object.
macro_rules! objects {
    ($($body:ident),+) => { $(
        impl<'de: 'a, 'a> FromJson<'de> for $body<'a> {
            fn from_object<A: MapAccess<'de>>(fields: A) -> Result<Option<Self>, A::Error> {
                read_object(fields)
            }
        }
    )+ };
}

objects!(
    Question,
    SubjectBody,
    ActionBody,
    ResourceBody,
    Properties,
    ContextBody,
    QuestionsBody,
    OptionsBody,
    SearchBody,
    PageBody
);

impl QuestionBody {
    /// The one question that the body is.
    pub(super) fn question(&self) -> Result<Question<'_>, String> {
        object(&self.bytes)
    }

    /// The questions that the body holds.
    pub(super) fn questions(&self) -> Result<Questions<'_>, String> {
        let body: QuestionsBody<'_> = object(&self.bytes)?;
        let options = body.options.optional("options", OBJECT)?;
        let semantic = options.map_or(Ok(Semantic::default()), OptionsBody::semantic)?;
        let items = match body.evaluations {
            Field::Absent => Vec::new(),
            Field::Given(items) if items.count <= MAX_EVALUATIONS => items.kept,
            Field::Given(_) => return Err(format!("evaluations must be at most {MAX_EVALUATIONS}")),
            Field::Mistyped => return Err("evaluations must be an array".to_owned()),
        };
        let defaults = Question {
            subject: body.subject,
            action: body.action,
            resource: body.resource,
            context: body.context,
        };
        // Wrong for every question that would take it.
        defaults.subject.optional("subject", OBJECT)?;
        defaults.action.optional("action", OBJECT)?;
        defaults.resource.optional("resource", OBJECT)?;
        defaults.context.optional("context", OBJECT)?;
        Ok(Questions {
            defaults,
            items,
            semantic,
        })
    }
}

impl QuestionBody {
    /// The search that the body is.
    pub(super) fn search(&self) -> Result<SearchBody<'_>, String> {
        object(&self.bytes)
    }
}

impl SearchBody<'_> {
    /// As it can be done: of what is sought, only the type counts.
    pub(super) fn asked(&self, sought: Sought, at_least: i64) -> Result<Search<'_>, String> {
        let subject = self.subject.required("subject", OBJECT)?;
        let kind = subject.kind.required("subject.type", STRING)?;
        let resource = self.resource.required("resource", OBJECT)?;
        let resource_type = resource.kind.required("resource.type", STRING)?;
        let context = self.context.optional("context", OBJECT)?;
        let when = context.map_or(Ok(When::Now), ContextBody::when)?;
        if when != When::Now || context.map_or(Ok(false), ContextBody::explains)? {
            return Err("context.atPosition, atTime and explain are not for searches".to_owned());
        }
        let action = match sought {
            Sought::Action => "",
            Sought::Subject | Sought::Resource => {
                let action = self.action.required("action", OBJECT)?;
                action.name.required("action.name", STRING)?.as_ref()
            }
        };
        let resource_id = match sought {
            Sought::Resource => "",
            Sought::Subject | Sought::Action => resource.name()?,
        };
        let (subject, subject_id) = match sought {
            Sought::Subject => (Subject::Unknown, ""),
            Sought::Action | Sought::Resource => {
                (subject.parse()?, subject.id.given().map_or("", AsRef::as_ref))
            }
        };
        let address = context.and_then(|context| context.ip_address.given());
        let organization_id = resource.organization()?;
        let page = self.page.optional("page", OBJECT)?;
        let limit = page.map_or(Ok(MAX_RESULTS), PageBody::limit)?;
        let organization = organization_id.map(|id| id.to_string()).unwrap_or_default();
        let limited = limit.to_string();
        let digest = digest(&[
            kind,
            subject_id,
            action,
            resource_type,
            resource_id,
            &organization,
            address.map_or("", AsRef::as_ref),
            &limited,
        ]);
        Ok(Search {
            seeks_tokens: kind == "access_token",
            subject,
            action,
            resource: resource_id,
            resource_type,
            organization_id,
            address: address.and_then(|address| address.trim().parse().ok()),
            at_least: context.map_or(Ok(0), ContextBody::at_least)?.max(at_least),
            limit,
            after: page.map_or(Ok(None), |page| page.after(&digest))?,
            digest,
        })
    }
}

impl PageBody<'_> {
    fn limit(&self) -> Result<usize, String> {
        match self.limit {
            Field::Absent => Ok(MAX_RESULTS),
            Field::Given(limit) if limit > 0 => {
                Ok(usize::try_from(limit).unwrap_or(MAX_RESULTS).min(MAX_RESULTS))
            }
            Field::Given(_) | Field::Mistyped => Err("page.limit must be a whole number, from 1".to_owned()),
        }
    }

    fn after(&self, digest: &str) -> Result<Option<String>, String> {
        let Some(token) = self
            .token
            .optional("page.token", STRING)?
            .filter(|token| !token.is_empty())
        else {
            return Ok(None);
        };
        token
            .strip_prefix(digest)
            .and_then(|rest| hex::decode(rest.strip_prefix('.')?).ok())
            .and_then(|after| String::from_utf8(after).ok())
            .map(Some)
            .ok_or_else(|| "page.token is of another search".to_owned())
    }
}

/// Short, and of the length of each text too.
fn digest(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.len().to_be_bytes());
        hasher.update(text);
    }
    let mut digest = hex::encode(hasher.finalize());
    digest.truncate(16);
    digest
}

impl<'a> Questions<'a> {
    /// The question that the request is as a whole, where it holds no others.
    pub(super) fn single(&self) -> Option<&Question<'a>> {
        self.items.is_empty().then_some(&self.defaults)
    }

    /// Each as it can be decided, or what is wrong with it, in order.
    pub(super) fn asked(&self, at_least: i64) -> impl Iterator<Item = Result<Asked<'_>, String>> {
        self.items.iter().map(move |item| {
            item.required("an evaluation", OBJECT)?
                .asked_or(&self.defaults, at_least)
        })
    }
}

impl OptionsBody<'_> {
    fn semantic(&self) -> Result<Semantic, String> {
        let semantic = self
            .evaluations_semantic
            .optional("options.evaluations_semantic", STRING)?;
        match semantic.map(AsRef::as_ref) {
            None | Some("execute_all") => Ok(Semantic::ExecuteAll),
            Some("deny_on_first_deny") => Ok(Semantic::DenyOnFirstDeny),
            Some("permit_on_first_permit") => Ok(Semantic::PermitOnFirstPermit),
            Some(_) => Err(
                "options.evaluations_semantic must be execute_all, deny_on_first_deny or permit_on_first_permit".to_owned(),
            ),
        }
    }
}

impl Question<'_> {
    /// As it can be decided, at this position at least.
    pub(super) fn asked(&self, at_least: i64) -> Result<Asked<'_>, String> {
        self.asked_or(self, at_least)
    }

    /// The same with what another one says where this one says nothing: whole objects, never a field of them.
    fn asked_or<'q>(&'q self, defaults: &'q Self, at_least: i64) -> Result<Asked<'q>, String> {
        let resource = self
            .resource
            .or(&defaults.resource)
            .required("resource", OBJECT)?;
        resource.kind.required("resource.type", STRING)?;
        let context = self.context.or(&defaults.context).optional("context", OBJECT)?;
        let subject = self.subject.or(&defaults.subject).required("subject", OBJECT)?;
        let action = self.action.or(&defaults.action).required("action", OBJECT)?;
        Ok(Asked {
            subject: subject.parse()?,
            action: action.name.required("action.name", STRING)?,
            resource: resource.name()?,
            organization_id: resource.organization()?,
            address: context
                .and_then(|context| context.ip_address.given())
                .and_then(|address| address.trim().parse().ok()),
            at_least: context.map_or(Ok(0), ContextBody::at_least)?.max(at_least),
            when: context.map_or(Ok(When::Now), ContextBody::when)?,
            explains: context.map_or(Ok(false), ContextBody::explains)?,
        })
    }
}

impl SubjectBody<'_> {
    /// Whoever is meant; a form that names nobody is unknown, not an error.
    fn parse(&self) -> Result<Subject, String> {
        let kind = self.kind.required("subject.type", STRING)?;
        let id = self.id.required("subject.id", STRING)?;
        match kind.as_ref() {
            "access_token" => Ok(match id.parse::<TokenId>() {
                Ok(token_id) => Subject::Token(token_id),
                Err(_) => SecretDigest::of(id).map_or(Subject::Unknown, Subject::Secret),
            }),
            "member" => {
                let properties = self.properties.required("subject.properties", OBJECT)?;
                let path = "subject.properties.organizationId";
                let organization_id = properties.organization_id.required(path, STRING)?;
                Ok(match (organization_id.parse(), id.parse()) {
                    (Ok(organization_id), Ok(member_id)) => Subject::Member(organization_id, member_id),
                    _ => Subject::NoMember,
                })
            }
            _ => Ok(Subject::Unknown),
        }
    }
}

impl ResourceBody<'_> {
    fn name(&self) -> Result<&str, String> {
        let name = self.id.required("resource.id", STRING)?;
        if name.len() > MAX_RESOURCE {
            return Err(format!("resource.id must be at most {MAX_RESOURCE} bytes"));
        }
        Ok(name)
    }

    /// An organization that can't be one matches nothing: the nil uuid is nobody's.
    fn organization(&self) -> Result<Option<OrganizationId>, String> {
        let properties = self.properties.optional("resource.properties", OBJECT)?;
        let text = match properties {
            Some(properties) => properties
                .organization_id
                .optional("resource.properties.organizationId", STRING)?,
            None => None,
        };
        Ok(text.map(|text| text.parse().unwrap_or(OrganizationId::from(Uuid::nil()))))
    }
}

impl ContextBody<'_> {
    fn at_least(&self) -> Result<i64, String> {
        position(&self.at_least_position, "context.atLeastPosition").map(|position| position.unwrap_or(0))
    }

    fn when(&self) -> Result<When, String> {
        let at_position = position(&self.at_position, "context.atPosition")?;
        let at_time = self.at_time.optional("context.atTime", TIME)?;
        match (at_position, at_time) {
            (None, None) => Ok(When::Now),
            (Some(position), None) => Ok(When::Position(position)),
            (None, Some(time)) => match DateTime::parse_from_rfc3339(time) {
                Ok(time) => Ok(When::Time(time.to_utc())),
                Err(_) => Err(format!("context.atTime must be {TIME}")),
            },
            (Some(_), Some(_)) => Err("context.atPosition and context.atTime exclude each other".to_owned()),
        }
    }

    fn explains(&self) -> Result<bool, String> {
        let explain = self.explain.optional("context.explain", "true or false")?;
        Ok(explain.copied().unwrap_or(false))
    }
}

fn position(field: &Field<i64>, path: &str) -> Result<Option<i64>, String> {
    match field {
        Field::Absent => Ok(None),
        Field::Given(position) if *position >= 0 => Ok(Some(*position)),
        Field::Given(_) | Field::Mistyped => Err(format!("{path} must be {POSITION}")),
    }
}
