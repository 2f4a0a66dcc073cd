//! In what order members' commands are taken on a node. Only so many are carried out at once, so that a crowd waits here
//! and not for a connection, where it would be refused; and those to one token take turns, or else a crowd decides on the
//! same state, one of it is appended, and the others decide again until they give up: who wants to stop a token that others
//! keep changing must get through. A courtesy, not a guard: what may stand is decided by the append alone.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::TokenId;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::CommandError;

/// Commands carried out at once: some read while the others wait for their append.
const AT_ONCE: usize = 64;
/// Lanes; tokens of the same lane wait for each other.
const LANES: u16 = 1024;
/// How long a turn is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whose turn it is. Cheap to clone; clones share the queues.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    at_once: Arc<Semaphore>,
    lanes: Arc<[Mutex<()>]>,
}

/// A command's turn lasts as long as this.
pub(super) struct Turn<'a> {
    _lane: Option<MutexGuard<'a, ()>>,
    _admitted: Option<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            lanes: (0..LANES).map(|_| Mutex::new(())).collect(),
        }
    }
}

impl Turns {
    /// Waits for the turn of a command to this token; first come, first served.
    ///
    /// # Errors
    /// `Conflict` where others kept coming first; `Unavailable` where the node had too much to do.
    pub(super) async fn of(&self, token_id: TokenId) -> Result<Turn<'_>, CommandError> {
        self.within(PATIENCE, Some(token_id)).await
    }

    /// Waits for the turn of a command that makes a token: there are no others to it.
    ///
    /// # Errors
    /// `Unavailable` where the node had too much to do.
    pub(super) async fn of_a_new_token(&self) -> Result<Turn<'_>, CommandError> {
        self.within(PATIENCE, None).await
    }

    async fn within(&self, patience: Duration, token_id: Option<TokenId>) -> Result<Turn<'_>, CommandError> {
        let give_up = Instant::now() + patience;
        // First the lane: who waits for another command holds up nobody else.
        let lane = match token_id.and_then(|token_id| self.lane(token_id)) {
            Some(lane) => {
                let turn = timeout_at(give_up, lane.lock()).await;
                Some(turn.map_err(|_| CommandError::Conflict)?)
            }
            None => None,
        };
        let admitted = timeout_at(give_up, self.at_once.acquire())
            .await
            .map_err(|late| CommandError::Unavailable(late.into()))?;
        Ok(Turn {
            _lane: lane,
            // Never closed; were it, nothing would be bounded, and all of it carried out all the same.
            _admitted: admitted.ok(),
        })
    }

    fn lane(&self, token_id: TokenId) -> Option<&Mutex<()>> {
        let lane = token_id.as_uuid().as_u128() % u128::from(LANES);
        self.lanes.get(usize::try_from(lane).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    async fn has_its_turn(turns: &Turns, token_id: TokenId) -> bool {
        turns
            .within(Duration::from_millis(20), Some(token_id))
            .await
            .is_ok()
    }

    /// Tried: no lanes; one lane for all.
    #[tokio::test]
    async fn commands_to_one_token_take_turns_and_those_to_another_do_not_wait() {
        let turns = Turns::default();
        let (one, other) = (
            TokenId::from(Uuid::from_u128(1)),
            TokenId::from(Uuid::from_u128(2)),
        );
        let turn = turns.of(one).await.unwrap();
        assert!(!has_its_turn(&turns, one).await);
        assert!(has_its_turn(&turns, other).await);
        drop(turn);
        assert!(has_its_turn(&turns, one).await);
    }

    /// Tried: no semaphore; the semaphore before the lane (the crowd holds all of it).
    #[tokio::test]
    async fn only_so_many_are_carried_out_at_once_and_a_crowd_at_one_token_is_one_of_them() {
        let turns = Turns::default();
        let id = |nth: usize| TokenId::from(Uuid::from_u128(u128::try_from(nth).unwrap()));
        let mut carried_out = vec![turns.of(id(0)).await.unwrap()];
        let crowd: Vec<_> = (0..2 * AT_ONCE)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.of(id(0)).await.map(|_| ()) })
            })
            .collect();
        tokio::task::yield_now().await;
        for nth in 1..AT_ONCE {
            carried_out.push(turns.of(id(nth)).await.unwrap());
        }
        assert!(!has_its_turn(&turns, id(AT_ONCE)).await);
        let late = turns.within(Duration::from_millis(20), None).await;
        assert!(matches!(late, Err(CommandError::Unavailable(_))));
        carried_out.clear();
        for waiting in crowd {
            waiting.await.unwrap().unwrap();
        }
    }

    /// Tried: the whole of its patience for each.
    #[tokio::test]
    async fn the_lane_and_the_place_are_waited_for_no_longer_than_one_turn() {
        let turns = Turns::default();
        let token_id = TokenId::from(Uuid::from_u128(1));
        let lane = turns.lane(token_id).unwrap().lock().await;
        let _all = turns
            .at_once
            .acquire_many(u32::try_from(AT_ONCE).unwrap())
            .await
            .unwrap();
        let since = Instant::now();
        let patience = Duration::from_millis(400);
        let (late, ()) = tokio::join!(turns.within(patience, Some(token_id)), async {
            tokio::time::sleep(patience * 3 / 4).await;
            drop(lane);
        });
        assert!(matches!(late, Err(CommandError::Unavailable(_))));
        assert!(since.elapsed() < patience * 3 / 2, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_a_conflict() {
        let turns = Turns::default();
        let token_id = TokenId::from(Uuid::new_v4());
        let _held = turns.of(token_id).await.unwrap();
        let late = turns.within(Duration::from_millis(20), Some(token_id)).await;
        assert!(matches!(late, Err(CommandError::Conflict)));
    }
}
