//! What the service does on its own account, answering an event or the hour. Each is decided from the stream, so doing it
//! twice, or after a crash again, changes nothing.

use chrono::{DateTime, Utc};
use domain::access_token::{AccessToken, AccessTokenCommand, DeactivationReason, Token};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberChange, MemberCommand};

use super::{Actor, Attempts, CommandError, Commands};
use crate::log::NameChange;

impl Commands {
    /// Appends what a creator's removal means for a token.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn deactivate_with_creator(
        &self,
        token_id: TokenId,
        membership_number: u32,
    ) -> Result<(), CommandError> {
        let reason = DeactivationReason::CreatorRemoved { membership_number };
        self.deactivate_unasked(token_id, reason, |_| true).await
    }

    /// Appends that a token's time has passed, if it has at this time.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn expire(&self, token_id: TokenId, now: DateTime<Utc>) -> Result<(), CommandError> {
        self.deactivate_unasked(token_id, DeactivationReason::Expired, |token| {
            token.is_expired(now)
        })
        .await
    }

    async fn deactivate_unasked(
        &self,
        token_id: TokenId,
        reason: DeactivationReason,
        is_due: impl Fn(&Token) -> bool + Send + Sync,
    ) -> Result<(), CommandError> {
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Reactor);
            let token = unit.load::<AccessToken>(&token_id.to_string()).await?;
            if !token.live().is_some_and(&is_due) {
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
                room: None,
            });
            if self.append(&unit).await?.is_some() {
                return Ok(());
            }
            attempts.again().await?;
        }
    }

    /// Ends a membership whose organization was removed at this position, unless the member was added again since.
    ///
    /// # Errors
    /// Where the log is out of reach.
    pub async fn end_membership(
        &self,
        organization_id: OrganizationId,
        member_id: MemberId,
        removed_at: i64,
    ) -> Result<(), CommandError> {
        let stream_id = Member::stream_id(organization_id, member_id);
        let mut attempts = Attempts::default();
        loop {
            let unit = self.unit(&Actor::Reactor);
            // Loaded first: an event that comes after this look makes the append conflict.
            unit.load::<Member>(&stream_id).await?;
            if self.was_added_after(&stream_id, removed_at).await? {
                return Ok(());
            }
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

    async fn was_added_after(&self, stream_id: &str, position: i64) -> Result<bool, CommandError> {
        let was_added = sqlx::query_scalar(
            "select exists (select from events where aggregate_type = 'member' and aggregate_id = $1
                            and event_type = 'member.added' and position > $2)",
        );
        Ok(was_added
            .bind(stream_id)
            .bind(position)
            .fetch_one(&self.pool)
            .await?)
    }
}
