//! Who asks: FeatBit's JWT and the `Organization` header become a member of that organization, or the request ends here.
//! A permission failure is never a 401: FeatBit's page would log its user out.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use domain::authorization::{Question, Reason};
use domain::ids::{MemberId, OrganizationId};
use domain::member::Member;
use domain::secret::SecretDigest;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use uuid::Uuid;

use super::client_address::peer;
use super::problem::Problem;
use super::{POSITION_PATIENCE, Service, at_least_position};
use crate::authorization::Subject;
use crate::commands::{Caller, KnownMember};

const ORGANIZATION: HeaderName = HeaderName::from_static("organization");

/// Checks FeatBit's JWTs: one algorithm, one issuer, one audience, no clock skew.
#[derive(Clone)]
pub struct JwtVerifier {
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JwtVerifier(…)")
    }
}

#[derive(Deserialize)]
struct Claims {
    id: Uuid,
}

impl JwtVerifier {
    /// A verifier that takes this algorithm only, whatever a JWT's header says.
    #[must_use]
    pub fn new(algorithm: Algorithm, key: DecodingKey, issuer: &str, audience: &str) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        // Not on the second of its expiry either (RFC 7519, 4.1.4).
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.validate_nbf = true;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Self { key, validation }
    }

    /// Is this one of FeatBit's, and good now?
    pub(super) fn believes(&self, jwt: &str) -> bool {
        self.member(jwt).is_ok()
    }

    fn member(&self, jwt: &str) -> Result<MemberId, Disbelief> {
        // The signature is looked at first: nobody guesses a JWT that has expired.
        let decoded =
            decode::<Claims>(jwt, &self.key, &self.validation).map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => Disbelief::Expired,
                _ => Disbelief::Wrong,
            })?;
        // Whoever signed it says that it means nothing to who does not know those (RFC 7515, 4.1.11).
        if decoded.header.crit.is_some() {
            return Err(Disbelief::Wrong);
        }
        Ok(MemberId::from(decoded.claims.id))
    }
}

/// Why somebody is not believed to be a caller.
enum Disbelief {
    /// It was one: by a 401 FeatBit's page learns to get another JWT, every few minutes.
    Expired,
    /// It may have been a guess.
    Wrong,
    /// It is known, and no caller.
    Known(Problem),
}

/// A member of the organization it names: the one that may be asked what it may do.
pub(super) struct KnownCaller {
    /// For commands, which see to it that what is known of the member is what its stream says.
    pub(super) caller: Caller,
}

impl KnownCaller {
    /// For queries: `Forbidden` unless a rule of management holds for the caller, as the index knows it.
    pub(super) fn must(&self, rule: impl FnOnce(&Member) -> bool) -> Result<(), Problem> {
        if self
            .caller
            .known
            .as_ref()
            .is_some_and(|known| rule(&known.member))
        {
            Ok(())
        } else {
            Err(Problem::Forbidden)
        }
    }
}

impl FromRequestParts<Service> for KnownCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Problem> {
        let member_id = authenticate(&parts.headers, service).map_err(|disbelief| match disbelief {
            Disbelief::Wrong => service
                .count_failure(peer(&parts.extensions), &parts.headers)
                .map_or_else(Problem::TooManyRequests, |()| Problem::Unauthorized),
            Disbelief::Expired => Problem::Unauthorized,
            Disbelief::Known(problem) => problem,
        })?;
        let organization_id = single(&parts.headers, ORGANIZATION)
            .and_then(|text| text.parse::<OrganizationId>().ok())
            .ok_or(Problem::Forbidden)?;
        // Who the caller is, and what it may do, as of the position it wants to see at least.
        let position = at_least_position(&parts.headers)?;
        let vouches =
            service.index.reached(position, POSITION_PATIENCE).await && service.index.fence().is_open();
        let known = service.index.member(organization_id, member_id);
        // A command needs nobody to vouch: it comes down to the log itself, or fails where that is out of reach. So tokens
        // can be stopped through a node that has fallen behind.
        if !vouches && parts.method.is_safe() {
            return Err(Problem::Unavailable);
        }
        if vouches && known.is_none() {
            return Err(Problem::Forbidden);
        }
        let known = known.map(|(member, sequence)| KnownMember { member, sequence });
        let request_id = super::request_id(&parts.headers);
        Ok(Self {
            caller: Caller {
                organization_id,
                member_id,
                request_id,
                known,
            },
        })
    }
}

fn authenticate(headers: &HeaderMap, service: &Service) -> Result<MemberId, Disbelief> {
    match Presented::in_headers(headers) {
        Some(Presented::Secret(digest)) => Err(refuse_token(service, digest)),
        Some(Presented::Jwt(jwt)) => service.jwt.member(jwt),
        None => Err(Disbelief::Wrong),
    }
}

/// An access token can't manage access tokens: known, it is forbidden; unknown or removed, it is nobody.
fn refuse_token(service: &Service, digest: SecretDigest) -> Disbelief {
    let question = Question {
        action: "",
        resource: "",
        organization_id: None,
        address: None,
        now: service.clock.now(),
    };
    let subject = Subject::Secret(digest);
    service
        .index
        .decide(&subject, &question, 0, |_, answer| match answer.reason {
            Reason::UnknownToken | Reason::TokenRemoved => Disbelief::Wrong,
            Reason::StaleReplica => Disbelief::Known(Problem::Unavailable),
            _ => Disbelief::Known(Problem::Forbidden),
        })
}

/// What somebody presents itself by.
pub(super) enum Presented<'h> {
    /// The secret of this digest, raw or as `Bearer`.
    Secret(SecretDigest),
    /// What may be a JWT: any other `Bearer`.
    Jwt(&'h str),
}

impl<'h> Presented<'h> {
    /// In `Authorization`; none where it is absent, there twice, or something else.
    pub(super) fn in_headers(headers: &'h HeaderMap) -> Option<Self> {
        let presented = single(headers, AUTHORIZATION)?;
        let bearer = presented
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let credential = bearer.map_or(presented, |(_, credential)| credential.trim());
        if let Ok(digest) = SecretDigest::of(credential) {
            return Some(Self::Secret(digest));
        }
        bearer.map(|_| Self::Jwt(credential))
    }
}

/// A header that stands there exactly once, as text in UTF-8, without the space around it.
pub(super) fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    std::str::from_utf8(value.as_bytes()).ok().map(str::trim)
}
