//! The two commands that hand out a secret: a new token, and another secret for one that is there. A secret can't be
//! shown again, so a caller may name such a command by an idempotency key: a retry finds what came of the first one.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use domain::access_token::management::{Change, is_under_ceiling, may_create};
use domain::access_token::{AccessToken, AccessTokenCommand, Created, Rotation, TokenName, TokenType};
use domain::ids::{OrganizationId, TokenId};
use domain::policy::Statement;
use domain::secret::{Secret, SecretKind};
use ipnet::IpNet;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::access_tokens::{execute, load_caller, load_token, name_change, presumed_caller};
use super::{Actor, Attempts, Caller, CommandError, Commands, Done, Effect};
use crate::log::{IdempotencyEntry, Room, TokenCount, UsedKey};

/// Digits of a second, as PostgreSQL keeps them.
const MICROSECONDS: u16 = 6;

/// A token to be issued.
#[derive(Clone, Debug, PartialEq)]
pub struct NewToken {
    /// Unique in the organization.
    pub name: TokenName,
    /// Fixed for ever.
    pub token_type: TokenType,
    /// A service token's permission; a personal token's narrowing.
    pub statements: Vec<Statement>,
    /// A few words.
    pub description: Option<String>,
    /// In the future.
    pub expires_at: Option<DateTime<Utc>>,
    /// None: from everywhere.
    pub allowed_ips: Vec<IpNet>,
}

/// What a caller named its command by. Known to its organization, itself and the route alone, for 30 days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// For what, as `/access-tokens`.
    pub route: String,
    /// The key.
    pub key: String,
    /// SHA-256 of what was asked.
    pub body_digest: [u8; 32],
}

/// What became of a command that issues.
#[derive(Debug)]
pub enum Issuing {
    /// A secret was issued.
    Issued(Issued),
    /// The same was asked before under the same key, and this token came of it.
    AlreadyDone(TokenId),
}

/// A secret that was just issued. It is nowhere else.
#[derive(Debug)]
pub struct Issued {
    /// Whose.
    pub token_id: TokenId,
    /// To be shown once.
    pub secret: Secret,
    /// When.
    pub at: DateTime<Utc>,
}

impl Commands {
    /// Issues a token. A first attempt rests on what this node knows: of the caller, and `known_count` of its organization's
    /// tokens; it is only refused on what the log says.
    ///
    /// # Errors
    /// `Forbidden` where the caller may not, or a service token would exceed it; `IdempotencyKeyReused`; `NameTaken`;
    /// `TooManyTokens`.
    pub async fn create_token(
        &self,
        caller: &Caller,
        new: &NewToken,
        known_count: TokenCount,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done<Issuing>, CommandError> {
        let token_id = TokenId::from(Uuid::now_v7());
        let _turn = self.turns.of_a_new_token().await?;
        let secret = new_secret(new.token_type.secret_kind())?;
        let mut attempts = Attempts::default();
        let mut known = caller.known.as_ref();
        let mut known_count = Some(known_count);
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let presumed = known.take();
            let creator = presumed_caller(&unit, caller, presumed).await?;
            let is_covered = || is_under_ceiling(&creator, new.token_type, &new.statements);
            if !may_create(&creator, new.token_type)
                || !self.weigh(&creator, &new.statements, is_covered).await
            {
                if presumed.is_some() {
                    // The log may know better.
                    continue;
                }
                return Err(CommandError::Forbidden);
            }
            if let Some(key) = key {
                if let Some(done) = self.already_done(caller, key, Effect::Gives).await? {
                    return Ok(done);
                }
                unit.remember(entry(caller, key, token_id));
            }
            let mut name = name_change(caller, token_id, new.name.key(), true);
            let presumed_count = known_count.take();
            name.room = Some(Room {
                at_most: self.max_tokens,
                counted: match presumed_count {
                    Some(count) => count,
                    None => self.token_count(caller.organization_id).await?,
                },
            });
            unit.change_name(name);
            let created = Created {
                token_id,
                organization_id: caller.organization_id,
                creator_id: caller.member_id,
                membership_number: creator.membership_number(),
                name: new.name.clone(),
                token_type: new.token_type,
                statements: new.statements.clone(),
                description: new.description.clone(),
                expires_at: new.expires_at,
                allowed_ips: new.allowed_ips.clone(),
                digest: secret.digest(),
                hint: secret.hint(),
            };
            unit.rest_on::<AccessToken>(&token_id.to_string(), 0);
            execute(&unit, token_id, AccessTokenCommand::Create(Box::new(created))).await?;
            match self.append(&unit).await {
                Err(CommandError::TooManyTokens) if presumed_count.is_some() => {}
                appended => {
                    if let Some(last) = appended?.and_then(|appended| appended.last) {
                        return Ok(issued(token_id, secret, last, Effect::Gives));
                    }
                }
            }
            attempts.again().await?;
        }
    }

    /// What came of the same command before, for whoever could not ask for it any more by now.
    ///
    /// # Errors
    /// `Forbidden` as for a new one; `IdempotencyKeyReused`.
    pub async fn created_before(
        &self,
        caller: &Caller,
        new: &NewToken,
        key: &IdempotencyKey,
    ) -> Result<Option<Done<Issuing>>, CommandError> {
        let creator = load_caller(&self.unit(&Actor::Member(caller.clone())), caller).await?;
        let is_covered = || is_under_ceiling(&creator, new.token_type, &new.statements);
        if !may_create(&creator, new.token_type) || !self.weigh(&creator, &new.statements, is_covered).await {
            return Err(CommandError::Forbidden);
        }
        self.already_done(caller, key, Effect::Gives).await
    }

    /// Gives a token another secret; the one before goes on working for the overlap.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` where the caller may not, or a service token exceeds it; `IdempotencyKeyReused`; the
    /// domain's refusal.
    pub async fn rotate_token(
        &self,
        caller: &Caller,
        token_id: TokenId,
        overlap: TimeDelta,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done<Issuing>, CommandError> {
        let _turn = self.turns.of(token_id).await?;
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let member = load_caller(&unit, caller).await?;
            let token = load_token(&unit, caller, token_id).await?;
            // Whoever has the secret may do what the token may.
            if !self.is_permitted(caller, &member, &token, Change::Arm).await {
                return Err(CommandError::Forbidden);
            }
            if let Some(key) = key {
                if let Some(done) = self.already_done(caller, key, Effect::TakesAway).await? {
                    return Ok(done);
                }
                unit.remember(entry(caller, key, token_id));
            }
            let secret = new_secret(token.token_type.secret_kind())?;
            let rotation = Rotation {
                digest: secret.digest(),
                hint: secret.hint(),
                overlap,
                now: self.clock.now().trunc_subsecs(MICROSECONDS),
            };
            execute(&unit, token_id, AccessTokenCommand::Rotate(rotation)).await?;
            if let Some(last) = self.append(&unit).await?.and_then(|appended| appended.last) {
                return Ok(issued(token_id, secret, last, Effect::TakesAway));
            }
            attempts.again().await?;
        }
    }

    /// How many tokens an organization has now, as the log says it.
    async fn token_count(&self, organization_id: OrganizationId) -> Result<TokenCount, CommandError> {
        // One statement, so that both are of one moment.
        let (tokens, as_of) = sqlx::query_as(
            "select (select count(*) from access_token_names where organization_id = $1),
                    (select coalesce(max(position), 0) from events)",
        )
        .bind(organization_id.as_uuid())
        .fetch_one(&self.pool)
        .await?;
        Ok(TokenCount { tokens, as_of })
    }

    /// What came of an earlier command by this key.
    async fn already_done(
        &self,
        caller: &Caller,
        key: &IdempotencyKey,
        effect: Effect,
    ) -> Result<Option<Done<Issuing>>, CommandError> {
        let found: Option<(Vec<u8>, Uuid)> = sqlx::query_as(
            "select body_digest, token_id from idempotency_keys
             where organization_id = $1 and member_id = $2 and route = $3 and key = $4
               and recorded_at > idempotency_keys_hold_since()",
        )
        .bind(caller.organization_id.as_uuid())
        .bind(caller.member_id.as_uuid())
        .bind(&key.route)
        .bind(&key.key)
        .fetch_optional(&self.pool)
        .await?;
        let Some((body_digest, token_id)) = found else {
            return Ok(None);
        };
        if body_digest != key.body_digest {
            return Err(CommandError::IdempotencyKeyReused);
        }
        Ok(Some(Done {
            value: Issuing::AlreadyDone(token_id.into()),
            position: self.position_of::<AccessToken>(&token_id.to_string()).await?,
            effect,
        }))
    }
}

fn issued(token_id: TokenId, secret: Secret, last: crate::log::Recorded, effect: Effect) -> Done<Issuing> {
    Done {
        value: Issuing::Issued(Issued {
            token_id,
            secret,
            at: last.at,
        }),
        position: last.position,
        effect,
    }
}

fn entry(caller: &Caller, key: &IdempotencyKey, token_id: TokenId) -> IdempotencyEntry {
    IdempotencyEntry {
        key: UsedKey {
            organization_id: caller.organization_id,
            member_id: caller.member_id,
            route: key.route.clone(),
            key: key.key.clone(),
        },
        body_digest: hex::encode(key.body_digest),
        token_id,
    }
}

fn new_secret(kind: SecretKind) -> Result<Secret, CommandError> {
    // Wiped with the secret's making: they are the secret.
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| CommandError::Internal(error.to_string().into()))?;
    Ok(Secret::generate(kind, bytes))
}
