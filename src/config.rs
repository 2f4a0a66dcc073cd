//! Configuration of a node, read once from the environment. A bad or missing value is named, and nothing starts.

pub(crate) mod audit;
mod jwt;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderValue, Uri};
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

use crate::audit::SignerConfig;
use crate::http::JwtVerifier;
use crate::intake::IntakeConfig;

const KAFKA_PROPERTY: &str = "KAFKA_PROPERTY_";

/// Everything a node needs to know. It holds keys and passwords, so it can't be printed.
#[derive(Clone)]
pub struct Config {
    /// PostgreSQL.
    pub database_url: String,
    /// Where to listen.
    pub http: SocketAddr,
    /// Whose JWTs are believed.
    pub jwt: JwtVerifier,
    /// Who may ask for decisions.
    pub gateway_keys: Vec<String>,
    /// Who may send membership events over HTTP; empty: nobody, that route is off.
    pub intake_keys: Vec<String>,
    /// Do FeatBit's own JWTs pass forward auth?
    pub passes_jwts: bool,
    /// Under which URL gateways reach this service, for the discovery document.
    pub public_url: Option<String>,
    /// Proxies in front of this node whose `X-Forwarded-For` is believed; 0: the peer is the client.
    pub trusted_proxy_hops: u8,
    /// The membership topic; none: no Kafka.
    pub intake: Option<IntakeConfig>,
    /// How long a node may vouch for what it knows after it last saw the end of the log.
    pub max_staleness: Duration,
    /// The farthest expiry, in days.
    pub max_expiry_days: u32,
    /// How long the contents of parked messages are kept, in days.
    pub parked_retention_days: u32,
    /// Tokens of an organization that are not removed.
    pub max_tokens: u32,
    /// With what the log's checkpoints are signed; none: they are not.
    pub signer: Option<SignerConfig>,
    /// Other origins whose pages may use the API.
    pub cors_origins: Vec<HeaderValue>,
}

/// A setting that is wrong.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is not there.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It is there, and wrong.
    #[error("{name} is not valid: {why}")]
    Invalid {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

fn invalid(name: &'static str, why: impl ToString) -> ConfigError {
    ConfigError::Invalid {
        name,
        why: why.to_string(),
    }
}

/// The settings as they stand in an environment.
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// The same with these settings instead.
    #[must_use]
    pub fn with<const N: usize>(mut self, settings: [(&str, String); N]) -> Self {
        self.0
            .extend(settings.map(|(name, value)| (name.to_owned(), value)));
        self
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// A path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// As it stands there: in a key, white space counts.
    fn raw(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn parse<T: std::str::FromStr<Err: ToString>>(
        &self,
        name: &'static str,
        default: T,
    ) -> Result<T, ConfigError> {
        self.get(name).map_or(Ok(default), |text| {
            text.parse().map_err(|error: T::Err| invalid(name, error))
        })
    }

    fn list(&self, name: &str) -> Vec<String> {
        let items: BTreeSet<&str> = self
            .get(name)
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        items.into_iter().map(ToOwned::to_owned).collect()
    }
}

/// The database's URL alone, for the commands that need nothing else.
///
/// # Errors
/// Where it is not set, or no URL of a PostgreSQL.
pub fn database_url(environment: &Environment) -> Result<String, ConfigError> {
    const NAME: &str = "DATABASE_URL";
    const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
    let url = environment.get(NAME).ok_or(ConfigError::Missing(NAME))?;
    // It may hold a password, so it is not shown.
    if url.parse::<PgConnectOptions>().is_err() || !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(invalid(
            NAME,
            "it is no URL of a PostgreSQL, as postgres://user@host/name is one",
        ));
    }
    Ok(url.to_owned())
}

impl Config {
    /// The configuration of `serve`.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that is wrong.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let http: SocketAddr = environment.parse("HTTP_ADDR", SocketAddr::from(([0, 0, 0, 0], 5080)))?;
        let gateway_keys = environment.list("GATEWAY_KEYS");
        if gateway_keys.is_empty() && !http.ip().is_loopback() {
            return Err(ConfigError::Missing(
                "GATEWAY_KEYS (it may be empty only where HTTP_ADDR is loopback)",
            ));
        }
        let intake_keys = environment.list("INTAKE_KEYS");
        if intake_keys.iter().any(|key| gateway_keys.contains(key)) {
            return Err(invalid(
                "INTAKE_KEYS",
                "a key of GATEWAY_KEYS may not be among them",
            ));
        }
        let max_staleness_ms: u64 = environment.parse("MAX_STALENESS_MS", 1000)?;
        if !(100..=60_000).contains(&max_staleness_ms) {
            return Err(invalid("MAX_STALENESS_MS", "it must be 100 to 60000"));
        }
        let parked_retention_days: u32 = environment.parse("PARKED_RETENTION_DAYS", 90)?;
        if !(1..=36_500).contains(&parked_retention_days) {
            return Err(invalid("PARKED_RETENTION_DAYS", "it must be 1 to 36500"));
        }
        if let Some(source) = environment
            .get("FORWARD_AUTH_SOURCE")
            .filter(|source| *source != "headers")
        {
            return Err(invalid(
                "FORWARD_AUTH_SOURCE",
                format!("{source}: only headers is there; the others need FeatBit's route table"),
            ));
        }
        Ok(Self {
            database_url: database_url(environment)?,
            http,
            jwt: jwt::verifier(environment)?,
            gateway_keys,
            intake_keys,
            passes_jwts: passes_jwts(environment)?,
            public_url: environment.get("PUBLIC_URL").map(public_url).transpose()?,
            trusted_proxy_hops: environment.parse("TRUSTED_PROXY_HOPS", 0)?,
            intake: intake(environment),
            max_staleness: Duration::from_millis(max_staleness_ms),
            parked_retention_days,
            max_expiry_days: environment.parse("MAX_EXPIRY_DAYS", 400)?,
            cors_origins: environment
                .list("CORS_ORIGINS")
                .iter()
                .map(|text| origin(text))
                .collect::<Result<_, _>>()?,
            signer: audit::signer(environment)?,
            max_tokens: environment.parse("MAX_TOKENS_PER_ORGANIZATION", 2000)?,
        })
    }
}

fn passes_jwts(environment: &Environment) -> Result<bool, ConfigError> {
    const NAME: &str = "FORWARD_AUTH_JWT";
    match environment.get(NAME) {
        None | Some("pass") => Ok(true),
        Some("refuse") => Ok(false),
        Some(other) => Err(invalid(NAME, format!("{other} is neither pass nor refuse"))),
    }
}

/// A URL to which the paths of the API can be appended. What the standard asks of it (AuthZEN 1.0, PDP metadata), but that
/// it be https: what ends TLS may stand elsewhere.
fn public_url(url: &str) -> Result<String, ConfigError> {
    let wrong = |why: &str| invalid("PUBLIC_URL", format!("{url} {why}"));
    let parsed: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(wrong("is no URL of http or https"));
    }
    if parsed.host().is_none_or(str::is_empty)
        || parsed.authority().is_some_and(|of| of.as_str().contains('@'))
    {
        return Err(wrong("must name a host, and no user"));
    }
    if url.contains(['?', '#']) {
        return Err(wrong("must have no query and no fragment"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// An origin, by name: a wildcard would let every page on the web use the API.
fn origin(origin: &str) -> Result<HeaderValue, ConfigError> {
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    // A browser sends no more than that, and no slash after it.
    if host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', '@'])) {
        return Err(invalid(
            "CORS_ORIGINS",
            format!("{origin} is no origin, as https://featbit.example is one"),
        ));
    }
    HeaderValue::from_str(origin).map_err(|error| invalid("CORS_ORIGINS", error))
}

fn intake(environment: &Environment) -> Option<IntakeConfig> {
    let bootstrap_servers = environment.get("KAFKA_BOOTSTRAP_SERVERS")?;
    let properties = environment
        .0
        .iter()
        .filter_map(|(name, value)| {
            let property = name
                .strip_prefix(KAFKA_PROPERTY)?
                .to_ascii_lowercase()
                .replace('_', ".");
            Some((property, value.clone()))
        })
        .collect();
    Some(IntakeConfig {
        bootstrap_servers: bootstrap_servers.to_owned(),
        topic: environment
            .get("KAFKA_TOPIC")
            .unwrap_or("featbit-membership")
            .to_owned(),
        group_id: environment
            .get("KAFKA_GROUP_ID")
            .unwrap_or("featbit-tokens")
            .to_owned(),
        cluster_id: None,
        properties,
    })
}
