//! What members do with tokens. Every command guards its caller's stream (and its creator's, where that decides) and
//! authorizes from it: a permission lost between decision and commit makes the append conflict, and the next attempt is
//! refused.

use chrono::{DateTime, Utc};
use domain::access_token::management::{Change, is_under_ceiling, may_change, may_create};
use domain::access_token::{
    AccessToken, AccessTokenCommand, Created, CreatorStanding, DeactivationReason, Token, TokenName,
    TokenType, Update,
};
use domain::ids::{OrganizationId, TokenId};
use domain::member::Member;
use domain::policy::Statement;
use domain::secret::Secret;
use ipnet::IpNet;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{Actor, Attempts, Caller, CommandError, Commands, Done};
use crate::log::{NameChange, UnitOfWork};

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

/// A token that was just issued. The secret is nowhere else.
#[derive(Debug)]
pub struct Issued {
    /// Which.
    pub token_id: TokenId,
    /// To be shown once.
    pub secret: Secret,
}

impl Commands {
    /// Issues a token.
    ///
    /// # Errors
    /// `Forbidden` where the caller may not, or a service token would exceed it; `NameTaken`; `TooManyTokens`.
    pub async fn create_token(&self, caller: &Caller, new: NewToken) -> Result<Done<Issued>, CommandError> {
        let token_id = TokenId::from(Uuid::now_v7());
        let secret = Secret::generate(new.token_type.secret_kind(), random_bytes()?);
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let creator = load_caller(&unit, caller).await?;
            let is_covered = || is_under_ceiling(&creator, new.token_type, &new.statements);
            if !may_create(&creator, new.token_type) || !block_in_place(is_covered) {
                return Err(CommandError::Forbidden);
            }
            self.check_room(caller.organization_id).await?;
            unit.change_name(name_change(caller, token_id, new.name.key(), true));
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
            execute(&unit, token_id, AccessTokenCommand::Create(Box::new(created))).await?;
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done {
                    value: Issued { token_id, secret },
                    position,
                });
            }
            attempts.again().await?;
        }
    }

    /// Changes a token's name, description, expiry or addresses.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `NameTaken`, or the domain's refusal.
    pub async fn update_token(
        &self,
        caller: &Caller,
        token_id: TokenId,
        update: Update,
    ) -> Result<Done<()>, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let member = load_caller(&unit, caller).await?;
            let token = load_token(&unit, caller, token_id).await?;
            let change = if token.is_widened_by(&update) {
                Change::Arm
            } else {
                Change::Edit
            };
            if !is_permitted(caller, &member, &token, change) {
                return Err(CommandError::Forbidden);
            }
            if let Some(name) = update.name.as_ref().filter(|name| name.key() != token.name.key()) {
                unit.change_name(name_change(caller, token_id, name.key(), true));
                unit.change_name(name_change(caller, token_id, token.name.key(), false));
            }
            let command = AccessTokenCommand::Update(update.clone(), self.clock.now());
            execute(&unit, token_id, command).await?;
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done { value: (), position });
            }
            attempts.again().await?;
        }
    }

    /// Lets a token be used again.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, or the domain's refusal.
    pub async fn activate_token(&self, caller: &Caller, token_id: TokenId) -> Result<Done<()>, CommandError> {
        self.turn(caller, token_id, |_, _| Switch::On).await
    }

    /// Stops a token until it is activated.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn deactivate_token(
        &self,
        caller: &Caller,
        token_id: TokenId,
    ) -> Result<Done<()>, CommandError> {
        self.turn(caller, token_id, |_, _| Switch::Off).await
    }

    /// Turns a token's effective status: one that can be used is stopped, one that can't is activated.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, or the domain's refusal.
    pub async fn toggle_token(&self, caller: &Caller, token_id: TokenId) -> Result<Done<()>, CommandError> {
        let opposite = |token: &Token, creator| {
            if token.is_effectively_active(creator) {
                Switch::Off
            } else {
                Switch::On
            }
        };
        self.turn(caller, token_id, opposite).await
    }

    async fn turn(
        &self,
        caller: &Caller,
        token_id: TokenId,
        which: impl Fn(&Token, CreatorStanding) -> Switch + Send + Sync,
    ) -> Result<Done<()>, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let member = load_caller(&unit, caller).await?;
            let token = load_token(&unit, caller, token_id).await?;
            let creator = self.load_creator(&unit, &token).await?;
            let (change, command) = match which(&token, creator) {
                Switch::On => (Change::Arm, AccessTokenCommand::Activate(creator)),
                Switch::Off => (
                    Change::Disarm,
                    AccessTokenCommand::Deactivate(DeactivationReason::ByMember),
                ),
            };
            if !is_permitted(caller, &member, &token, change) {
                return Err(CommandError::Forbidden);
            }
            execute(&unit, token_id, command).await?;
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done { value: (), position });
            }
            attempts.again().await?;
        }
    }

    /// Stops a token for ever and frees its name. One that was removed already, or never was, is removed as asked.
    ///
    /// # Errors
    /// `Forbidden`.
    pub async fn remove_token(&self, caller: &Caller, token_id: TokenId) -> Result<Done<()>, CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let member = load_caller(&unit, caller).await?;
            let token = match unit.load::<AccessToken>(&token_id.to_string()).await? {
                AccessToken::Live(token) if token.organization_id == caller.organization_id => token,
                gone_or_never_there => {
                    return self
                        .nothing_to_remove(caller, &member, token_id, &gone_or_never_there)
                        .await;
                }
            };
            if !is_permitted(caller, &member, &token, Change::Disarm) {
                return Err(CommandError::Forbidden);
            }
            execute(&unit, token_id, AccessTokenCommand::Remove).await?;
            unit.change_name(name_change(caller, token_id, token.name.key(), false));
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done { value: (), position });
            }
            attempts.again().await?;
        }
    }

    /// Is there room for one more token? Looked at before the append: parallel creations may go over by their number.
    async fn check_room(&self, organization_id: OrganizationId) -> Result<(), CommandError> {
        // Each token that is not removed has its name.
        let live: i64 =
            sqlx::query_scalar("select count(*) from access_token_names where organization_id = $1")
                .bind(organization_id.as_uuid())
                .fetch_one(&self.pool)
                .await?;
        if live < i64::from(self.max_tokens) {
            Ok(())
        } else {
            Err(CommandError::TooManyTokens)
        }
    }

    /// Where a token was removed already, or never was one of the caller's organization, there is nothing left to do; whoever
    /// may remove tokens at all is told so.
    async fn nothing_to_remove(
        &self,
        caller: &Caller,
        member: &Member,
        token_id: TokenId,
        token: &AccessToken,
    ) -> Result<Done<()>, CommandError> {
        if ![TokenType::Personal, TokenType::Service]
            .iter()
            .any(|&any| may_create(member, any))
        {
            return Err(CommandError::Forbidden);
        }
        let position = match token {
            AccessToken::Removed(token) if token.organization_id == caller.organization_id => {
                self.position_of::<AccessToken>(&token_id.to_string()).await?
            }
            _ => 0,
        };
        Ok(Done { value: (), position })
    }

    /// Appends what was decided; the position, or none on a conflict. Where nothing had to change nothing is appended.
    async fn finish(&self, unit: &UnitOfWork, token_id: TokenId) -> Result<Option<i64>, CommandError> {
        if unit.staged_events() > 0 {
            return match self.append(unit).await? {
                None => Ok(None),
                Some(appended) => Ok(appended.last),
            };
        }
        Ok(Some(
            self.position_of::<AccessToken>(&token_id.to_string()).await?,
        ))
    }

    async fn load_creator(&self, unit: &UnitOfWork, token: &Token) -> Result<CreatorStanding, CommandError> {
        let stream_id = Member::stream_id(token.organization_id, token.creator_id);
        let creator = unit.load::<Member>(&stream_id).await?;
        Ok(CreatorStanding {
            is_member: creator.is_member(),
            membership_number: creator.membership_number(),
            now: self.clock.now(),
        })
    }
}

enum Switch {
    On,
    Off,
}

/// The caller, as its own stream gives it: who is no member may nothing.
async fn load_caller(unit: &UnitOfWork, caller: &Caller) -> Result<Member, CommandError> {
    let member = unit
        .load::<Member>(&Member::stream_id(caller.organization_id, caller.member_id))
        .await?;
    if member.is_member() {
        Ok(member)
    } else {
        Err(CommandError::Forbidden)
    }
}

/// A token of the caller's organization that was not removed; any other does not exist for it.
async fn load_token(unit: &UnitOfWork, caller: &Caller, token_id: TokenId) -> Result<Token, CommandError> {
    match unit.load::<AccessToken>(&token_id.to_string()).await? {
        AccessToken::Live(token) if token.organization_id == caller.organization_id => Ok(*token),
        AccessToken::Unknown | AccessToken::Live(_) | AccessToken::Removed(_) => Err(CommandError::NotFound),
    }
}

/// To weigh the largest token against a member's permission takes a third of a second, in which this thread's other
/// requests go on elsewhere.
fn is_permitted(caller: &Caller, member: &Member, token: &Token, change: Change) -> bool {
    block_in_place(|| may_change(caller.member_id, member, token, change))
}

async fn execute(
    unit: &UnitOfWork,
    token_id: TokenId,
    command: AccessTokenCommand,
) -> Result<(), CommandError> {
    unit.execute::<AccessToken>(&token_id.to_string(), command)
        .await??;
    Ok(())
}

fn name_change(caller: &Caller, token_id: TokenId, name_key: String, reserve: bool) -> NameChange {
    NameChange {
        reserve,
        organization_id: caller.organization_id,
        name_key,
        token_id,
    }
}

fn random_bytes() -> Result<[u8; 32], CommandError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| CommandError::Internal(error.to_string().into()))?;
    Ok(bytes)
}
