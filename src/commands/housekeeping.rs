//! What the service does on its own account, answering an event or the hour. Each is decided from the stream, so doing it
//! twice, or after a crash again, changes nothing.

use domain::access_token::{AccessToken, AccessTokenCommand, DeactivationReason};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberChange, MemberCommand};

use super::{Actor, Attempts, CommandError, Commands};
use crate::log::NameChange;

impl Commands {
    /// Appends what a creator's removal, or the hour, means for a token.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn deactivate_unasked(
        &self,
        token_id: TokenId,
        reason: DeactivationReason,
    ) -> Result<(), CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Reactor);
            let token = unit.load::<AccessToken>(&token_id.to_string()).await?;
            let is_due = match (reason, token.live()) {
                (_, None) => false,
                (DeactivationReason::Expired, Some(token)) => token.is_expired(self.clock.now()),
                (DeactivationReason::ByMember | DeactivationReason::CreatorRemoved { .. }, Some(_)) => true,
            };
            if !is_due {
                return Ok(());
            }
            unit.execute::<AccessToken>(&token_id.to_string(), AccessTokenCommand::Deactivate(reason))
                .await??;
            if unit.staged_events() == 0 || self.append(&unit).await?.is_some() {
                return Ok(());
            }
            attempts.again().await?;
        }
    }

    /// Removes a token whose organization was removed.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn remove_unasked(&self, token_id: TokenId) -> Result<(), CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Reactor);
            let AccessToken::Live(token) = unit.load::<AccessToken>(&token_id.to_string()).await? else {
                return Ok(());
            };
            unit.execute::<AccessToken>(&token_id.to_string(), AccessTokenCommand::Remove)
                .await??;
            unit.change_name(NameChange {
                reserve: false,
                organization_id: token.organization_id,
                name_key: token.name.key(),
                token_id,
            });
            if self.append(&unit).await?.is_some() {
                return Ok(());
            }
            attempts.again().await?;
        }
    }

    /// Ends a membership whose organization was removed.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn end_membership(
        &self,
        organization_id: OrganizationId,
        member_id: MemberId,
    ) -> Result<(), CommandError> {
        let stream_id = Member::stream_id(organization_id, member_id);
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Reactor);
            let command = MemberCommand {
                organization_id,
                member_id,
                change: MemberChange::EndWithOrganization,
            };
            unit.execute::<Member>(&stream_id, command)
                .await?
                .map_err(|refusal| CommandError::Internal(refusal.into()))?;
            if unit.staged_events() == 0 || self.append(&unit).await?.is_some() {
                return Ok(());
            }
            attempts.again().await?;
        }
    }
}
