//! The header by which a caller names a POST, so that a retry does not do it twice (draft-ietf-httpapi-idempotency-key-header).

use axum::http::{HeaderMap, HeaderName};
use domain::secret::Secret;

use super::body::Fields;
use super::problem::Problem;
use crate::commands::issuing::IdempotencyKey;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Characters of a key.
const MAX_KEY: usize = 255;

/// The key that a request was given for this route, if it was given one: 1 to [`MAX_KEY`] visible ASCII characters, and no
/// secret, for it is kept.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    route: String,
    fields: &Fields,
) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let is_fit = |key: &&str| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) && !Secret::is_in(key)
    };
    match (value.to_str().ok().filter(is_fit), values.next()) {
        (Some(key), None) if key.len() <= MAX_KEY => Ok(Some(IdempotencyKey {
            route,
            key: key.to_owned(),
            body_digest: fields.digest(),
        })),
        _ => Err(Problem::Invalid(vec!["idempotency_key_is_invalid"])),
    }
}
