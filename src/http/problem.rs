//! Every failure leaves through here: what went wrong, as a status and a code in FeatBit's envelope. A new failure does
//! not compile until it has both. A 500 says nothing of its cause; the cause is logged once, here.

use axum::http::header::{CACHE_CONTROL, EXPIRES, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::access_token::AccessTokenRefusal;
use domain::ids::TokenId;
use serde::Serialize;

use super::envelope::{API_VERSIONS, LOG_POSITION, failure};
use super::failed_attempts::TooManyFailures;
use super::token_body::TokenBody;
use crate::commands::CommandError;
use crate::commands::issuing::Issued;
use crate::report::Report;

/// Why a request of the management API is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Problem {
    /// The body or the query does not hold what it must: a code for each thing, in the order of the fields.
    Invalid(Vec<&'static str>),
    /// No caller, or one that can't be believed.
    Unauthorized,
    /// A known caller who may not.
    Forbidden,
    /// No such token in this organization, or no such path.
    NotFound,
    /// The path is there, for another method.
    MethodNotAllowed,
    /// It kept conflicting.
    Conflict,
    /// The same was asked before under the same key: the token that came of it, unless it was removed since.
    AlreadyDone {
        /// Of the token's last event.
        position: i64,
        /// Its secret masked.
        token: Option<Box<TokenBody>>,
    },
    /// The body or the headers.
    TooLarge,
    /// Too many who could not be believed, from one address.
    TooManyRequests(TooManyFailures),
    /// Another token has the name.
    NameHasBeenUsed,
    /// The organization has as many tokens as it may have.
    TooManyTokens,
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
    /// The token can't be made what is asked.
    Refused(AccessTokenRefusal),
    /// The store is out of reach, or the position asked for is not reached in time.
    Unavailable,
    /// It was done, but a node that may still decide without knowing it could not be waited for.
    Unconfirmed {
        /// Of what was done.
        position: i64,
    },
    /// A secret was issued before this went wrong. It is shown all the same: nobody can show it again.
    AfterIssuing {
        /// Of what was done.
        position: i64,
        /// The secret.
        issued: Box<Issued>,
        /// What went wrong.
        problem: Box<Self>,
    },
    /// Anything else.
    Internal,
}

/// What is left of an answer with a secret.
#[derive(Serialize)]
struct SecretBody<'a> {
    id: TokenId,
    token: &'a str,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::AfterIssuing { problem, .. } => problem.status(),
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::Refused(AccessTokenRefusal::NoSuchToken) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict | Self::AlreadyDone { .. } | Self::Refused(AccessTokenRefusal::AlreadyExists) => {
                StatusCode::CONFLICT
            }
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NameHasBeenUsed
            | Self::TooManyTokens
            | Self::IdempotencyKeyReused
            | Self::Refused(
                AccessTokenRefusal::PermissionsAreFixed
                | AccessTokenRefusal::TokenIsExpired
                | AccessTokenRefusal::CreatorIsNotAMember,
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable | Self::Unconfirmed { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn codes(&self) -> Vec<&'static str> {
        let code = match self {
            Self::Invalid(codes) => return codes.clone(),
            Self::AfterIssuing { problem, .. } => return problem.codes(),
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound | Self::Refused(AccessTokenRefusal::NoSuchToken) => "ResourceNotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::Conflict | Self::Refused(AccessTokenRefusal::AlreadyExists) => "Conflict",
            Self::AlreadyDone { .. } => "AlreadyDone",
            Self::TooLarge => "PayloadTooLarge",
            Self::TooManyRequests(_) => "TooManyRequests",
            Self::NameHasBeenUsed => "NameHasBeenUsed",
            Self::TooManyTokens => "TooManyAccessTokens",
            Self::IdempotencyKeyReused => "IdempotencyKeyReused",
            Self::Refused(AccessTokenRefusal::PermissionsAreFixed) => "PermissionsAreFixed",
            Self::Refused(AccessTokenRefusal::TokenIsExpired) => "TokenIsExpired",
            Self::Refused(AccessTokenRefusal::CreatorIsNotAMember) => "CreatorIsNotAMember",
            Self::Unavailable | Self::Unconfirmed { .. } => "ServiceUnavailable",
            Self::Internal => "InternalServerError",
        };
        vec![code]
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, codes) = (self.status(), self.codes());
        let mut response = match &self {
            Self::AlreadyDone { token, .. } => failure(status, &codes, token.as_deref()),
            Self::AfterIssuing { issued, .. } => {
                let (id, token) = (issued.token_id, issued.secret.reveal());
                failure(status, &codes, Some(SecretBody { id, token }))
            }
            _ => failure(status, &codes, None::<()>),
        };
        let headers = response.headers_mut();
        match self {
            // FeatBit's own answers to these two carry nothing else.
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                headers.remove(API_VERSIONS);
                return response;
            }
            Self::Forbidden => {
                headers.remove(API_VERSIONS);
                return response;
            }
            Self::TooManyRequests(TooManyFailures { retry_after }) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
            }
            Self::AlreadyDone { position, .. } => {
                headers.insert(LOG_POSITION, HeaderValue::from(position));
            }
            Self::AfterIssuing { position, .. } => {
                headers.insert(LOG_POSITION, HeaderValue::from(position));
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
            }
            Self::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Unconfirmed { position } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                headers.insert(LOG_POSITION, HeaderValue::from(position));
            }
            _ => {}
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(EXPIRES, HeaderValue::from_static("-1"));
        response
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Forbidden => Self::Forbidden,
            CommandError::NotFound => Self::NotFound,
            CommandError::NameTaken => Self::NameHasBeenUsed,
            CommandError::TooManyTokens => Self::TooManyTokens,
            CommandError::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            CommandError::Refused(refusal) => Self::Refused(refusal),
            CommandError::Conflict => Self::Conflict,
            CommandError::Unavailable(_) => {
                tracing::warn!(error = %Report(&error), "the store is out of reach");
                Self::Unavailable
            }
            CommandError::OffsetFenced | CommandError::Unfit(_) | CommandError::Internal(_) => {
                tracing::error!(error = %Report(&error), "a command failed");
                Self::Internal
            }
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => {
                tracing::error!(%error, "a query failed");
                Self::Internal
            }
            error => {
                tracing::warn!(%error, "the store is out of reach");
                Self::Unavailable
            }
        }
    }
}
