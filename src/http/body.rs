//! Request bodies: read within bounds, taken apart without regard to the case of their keys (as FeatBit does), and each
//! thing that is wrong named by its code. Nothing of a body is trusted before it went through here.

use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// Bytes in a body.
pub(super) const MAX_BODY: usize = 256 * 1024;
/// Bytes of a body that is too large that are still read, so that its sender gets to see the answer.
const MAX_DRAINED: usize = 16 * 1024 * 1024;
/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a body can't be had.
pub(super) enum UnreadableBody {
    /// More than [`MAX_BODY`].
    TooLarge,
    /// It broke off, or took too long.
    Broken,
}

/// The whole body.
pub(super) async fn read<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, UnreadableBody> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // Most bodies are there with the head, in one piece: they need no clock and no copy.
    let first = match body.frame().now_or_never() {
        Some(Some(frame)) => frame
            .map_err(|_| UnreadableBody::Broken)?
            .into_data()
            .unwrap_or_default(),
        Some(None) => return Ok(Bytes::new()),
        None => Bytes::new(),
    };
    if body.is_end_stream() && first.len() <= MAX_BODY {
        return Ok(first);
    }
    // As far as it says.
    let size = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if size > MAX_DRAINED {
        return Err(UnreadableBody::TooLarge);
    }
    tokio::time::timeout(PATIENCE, read_bounded(first, body))
        .await
        .unwrap_or(Err(if size > MAX_BODY {
            UnreadableBody::TooLarge
        } else {
            UnreadableBody::Broken
        }))
}

/// The rest of a body that began like this.
async fn read_bounded<B: HttpBody<Data = Bytes> + Unpin>(
    first: Bytes,
    mut body: B,
) -> Result<Bytes, UnreadableBody> {
    let mut seen: usize = first.len();
    let mut kept = match seen <= MAX_BODY {
        true => Vec::from(first),
        false => Vec::new(),
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| UnreadableBody::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > MAX_DRAINED {
            return Err(UnreadableBody::TooLarge);
        }
        if seen <= MAX_BODY {
            kept.extend_from_slice(data);
        }
    }
    if seen > MAX_BODY {
        Err(UnreadableBody::TooLarge)
    } else {
        Ok(kept.into())
    }
}

/// Does the request say that its body is JSON?
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

/// A JSON object whose fields are found by name without regard to case.
#[derive(Debug, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8], is_json: bool) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) if is_json => Ok(Self(fields)),
            _ => Err(Problem::Invalid(vec!["body_is_invalid"])),
        }
    }

    /// SHA-256 of the object, written in one way whatever white space it came with.
    pub(super) fn digest(&self) -> [u8; 32] {
        let fields = self.0.iter();
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let text = Value::Object(fields.collect()).to_string();
        Sha256::digest(text).into()
    }

    /// The field of this name, lower case; none where it is absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        field(&self.0, name)
    }
}

/// The field of an object by its name in lower case, without regard to how it is written there; written in several ways it
/// is the one whose name is last in the order of bytes, wherever it stands.
pub(super) fn field<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let mut from_last = object.iter().rev();
    from_last
        .find(|(written, _)| written.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = says_json_or_nothing(request.headers());
        Self::parse(&read(request.into_body()).await?, is_json)
    }
}

/// Where a body may be left out altogether, or be null.
impl<S: Send + Sync> OptionalFromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, Problem> {
        let is_json = says_json_or_nothing(request.headers());
        let body = read(request.into_body()).await?;
        if body.is_empty() || body.trim_ascii() == b"null" {
            return Ok(None);
        }
        Self::parse(&body, is_json).map(Some)
    }
}

fn says_json_or_nothing(headers: &HeaderMap) -> bool {
    !headers.contains_key(CONTENT_TYPE) || is_json(headers)
}

/// A whole number, however it is written: to JSON Schema 7.0 is an integer too (2020-12, 4.2.3 of its core).
pub(super) fn whole_number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| whole(value.as_f64()?))
}

/// The same for a number that was written with a fraction or an exponent.
pub(super) fn whole(number: f64) -> Option<i64> {
    if number.fract() != 0.0 {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

impl From<UnreadableBody> for Problem {
    fn from(error: UnreadableBody) -> Self {
        match error {
            UnreadableBody::TooLarge => Self::TooLarge,
            UnreadableBody::Broken => Self::Invalid(vec!["body_is_invalid"]),
        }
    }
}
