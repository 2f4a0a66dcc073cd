//! What members do with tokens that are there. Every command guards its caller's stream (and its creator's, where that decides) and
//! authorizes from it: a permission lost between decision and commit makes the append conflict, and the next attempt is
//! refused.

use std::sync::Arc;

use domain::access_token::management::{Change, may_change, may_create};
use domain::access_token::{
    AccessToken, AccessTokenCommand, CreatorStanding, DeactivationReason, Token, TokenType, Update,
};
use domain::ids::TokenId;
use domain::member::Member;

use super::{Actor, Attempts, Caller, CommandError, Commands, Done, Effect, KnownMember};
use crate::log::{NameChange, UnitOfWork};

impl Commands {
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
        let _turn = self.turns.of(token_id).await?;
        let effect = effect_of(&update);
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
            if !self.is_permitted(caller, &member, &token, change).await {
                return Err(CommandError::Forbidden);
            }
            if let Some(name) = update.name.as_ref().filter(|name| name.key() != token.name.key()) {
                unit.change_name(name_change(caller, token_id, name.key(), true));
                unit.change_name(name_change(caller, token_id, token.name.key(), false));
            }
            let command = AccessTokenCommand::Update(update.clone(), self.clock.now());
            execute(&unit, token_id, command).await?;
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done {
                    value: (),
                    position,
                    effect,
                });
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
        let _turn = self.turns.of(token_id).await?;
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Member(caller.clone()));
            let member = load_caller(&unit, caller).await?;
            let token = load_token(&unit, caller, token_id).await?;
            let creator = self.load_creator(&unit, &token).await?;
            let (change, command, effect) = match which(&token, creator) {
                Switch::On => (Change::Arm, AccessTokenCommand::Activate(creator), Effect::Gives),
                Switch::Off => (
                    Change::Disarm,
                    AccessTokenCommand::Deactivate(DeactivationReason::ByMember),
                    Effect::TakesAway,
                ),
            };
            if !self.is_permitted(caller, &member, &token, change).await {
                return Err(CommandError::Forbidden);
            }
            execute(&unit, token_id, command).await?;
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(Done {
                    value: (),
                    position,
                    effect,
                });
            }
            attempts.again().await?;
        }
    }

    /// Stops a token for ever and frees its name. One that was removed already, or never was, is removed as asked.
    ///
    /// # Errors
    /// `Forbidden`.
    pub async fn remove_token(&self, caller: &Caller, token_id: TokenId) -> Result<Done<()>, CommandError> {
        let _turn = self.turns.of(token_id).await?;
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
            if !self.is_permitted(caller, &member, &token, Change::Disarm).await {
                return Err(CommandError::Forbidden);
            }
            execute(&unit, token_id, AccessTokenCommand::Remove).await?;
            unit.change_name(name_change(caller, token_id, token.name.key(), false));
            if let Some(position) = self.finish(&unit, token_id).await? {
                return Ok(taken_away(position));
            }
            attempts.again().await?;
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
        Ok(taken_away(position))
    }

    /// Appends what was decided; the position, or none on a conflict. Where nothing had to change nothing is appended.
    async fn finish(&self, unit: &UnitOfWork, token_id: TokenId) -> Result<Option<i64>, CommandError> {
        if unit.staged_events() > 0 {
            return match self.append(unit).await? {
                None => Ok(None),
                Some(appended) => Ok(appended.last.map(|last| last.position)),
            };
        }
        Ok(Some(
            self.position_of::<AccessToken>(&token_id.to_string()).await?,
        ))
    }

    pub(super) async fn is_permitted(
        &self,
        caller: &Caller,
        member: &Member,
        token: &Token,
        change: Change,
    ) -> bool {
        let may = || may_change(caller.member_id, member, token, change);
        // Only what arms a service token is weighed: who stops one waits for nobody's weighing.
        if change != Change::Arm || token.token_type != TokenType::Service {
            return may();
        }
        self.weigh(member, token.permission.statements(), may).await
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

fn taken_away(position: i64) -> Done<()> {
    Done {
        value: (),
        position,
        effect: Effect::TakesAway,
    }
}

/// A new expiry or address list may be a narrower one; asked for again it is the one that is there, which may not be known
/// everywhere yet.
fn effect_of(update: &Update) -> Effect {
    let expires = matches!(update.expires_at, Some(Some(_)));
    let from_some_only = update
        .allowed_ips
        .as_ref()
        .is_some_and(|allowed| !allowed.is_empty());
    if expires || from_some_only {
        Effect::TakesAway
    } else {
        Effect::Gives
    }
}

/// The caller for the first attempt: as this node knows it, where it does.
pub(super) async fn presumed_caller(
    unit: &UnitOfWork,
    caller: &Caller,
    known: Option<&KnownMember>,
) -> Result<Arc<Member>, CommandError> {
    let Some(known) = known else {
        return Ok(Arc::new(load_caller(unit, caller).await?));
    };
    let stream_id = Member::stream_id(caller.organization_id, caller.member_id);
    unit.rest_on::<Member>(&stream_id, known.sequence);
    Ok(Arc::clone(&known.member))
}

/// The caller, as its own stream gives it: who is no member may nothing.
pub(super) async fn load_caller(unit: &UnitOfWork, caller: &Caller) -> Result<Member, CommandError> {
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
pub(super) async fn load_token(
    unit: &UnitOfWork,
    caller: &Caller,
    token_id: TokenId,
) -> Result<Token, CommandError> {
    match unit.load::<AccessToken>(&token_id.to_string()).await? {
        AccessToken::Live(token) if token.organization_id == caller.organization_id => Ok(*token),
        AccessToken::Unknown | AccessToken::Live(_) | AccessToken::Removed(_) => Err(CommandError::NotFound),
    }
}

pub(super) async fn execute(
    unit: &UnitOfWork,
    token_id: TokenId,
    command: AccessTokenCommand,
) -> Result<(), CommandError> {
    unit.execute::<AccessToken>(&token_id.to_string(), command)
        .await??;
    Ok(())
}

pub(super) fn name_change(caller: &Caller, token_id: TokenId, name_key: String, reserve: bool) -> NameChange {
    NameChange {
        reserve,
        organization_id: caller.organization_id,
        name_key,
        token_id,
        room: None,
    }
}
