//! Names and addresses of callers, for the answers that show their own to them: remembered for a few seconds, so that many
//! commands of one member ask once. A change comes with an event of the member, and is seen at once.

use std::time::Duration;

use domain::ids::{MemberId, OrganizationId};
use papaya::HashMap;
use projections::members::{self, Profile};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::commands::Caller;

/// How long an erased one may still be shown, to its member.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Members remembered; then all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// What was looked up lately.
#[derive(Debug, Default)]
pub struct Profiles {
    known: HashMap<(OrganizationId, MemberId), Known>,
}

#[derive(Debug)]
struct Known {
    profile: Profile,
    /// The last sequence of the member's stream when it was looked up.
    sequence: i64,
    at: Instant,
}

impl Profiles {
    /// The caller's; empty where it was erased or can't be had just now.
    pub(super) async fn of(&self, pool: &PgPool, caller: &Caller) -> Profile {
        let (organization_id, member_id) = (caller.organization_id, caller.member_id);
        let whose = (organization_id, member_id);
        let sequence = caller.known.as_ref().map_or(0, |known| known.sequence);
        if let Some(known) = self.known.pin().get(&whose)
            && known.sequence == sequence
            && known.at.elapsed() < REMEMBERED
        {
            return known.profile.clone();
        }
        let at = Instant::now();
        let found = match pool.acquire().await {
            Ok(mut connection) => members::profile(&mut connection, organization_id, member_id).await,
            Err(error) => Err(error),
        };
        let Ok(found) = found else {
            return Profile::default();
        };
        let profile = found.unwrap_or_default();
        if caller.known.is_none() {
            return profile;
        }
        let known = self.known.pin();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        let remembered = Known {
            profile: profile.clone(),
            sequence,
            at,
        };
        known.insert(whose, remembered);
        profile
    }
}
