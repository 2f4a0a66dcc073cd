//! Polls on their way to the log. Each is decided behind those ahead of it, as if they stood already, and handed to the log at
//! once: the log takes it only if they came to stand just so. What it does not take is decided anew by the consumer, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{Shared, join, join_all, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::task::JoinHandle;

use super::polls::Polls;
use crate::commands::membership::{Ahead, Staged, Taken};
use crate::commands::{CommandError, Commands};
use crate::report::Report;

/// What became of a poll; none where it does not stand, for it could not be decided, or came out otherwise.
pub(super) type Tried = Result<Option<Taken>, CommandError>;

/// What each partition's poll was decided to be; none where one of them, or one ahead of them, could not be decided.
type Decided = Option<Arc<Vec<Staged>>>;

/// What was read at once, being decided or appended.
pub(super) struct UnderWay {
    pub(super) polls: Arc<Polls>,
    decided: Shared<oneshot::Receiver<Decided>>,
    pub(super) tried: JoinHandle<Vec<Tried>>,
}

impl UnderWay {
    /// Decides it behind what is ahead of it under the same assignment, and appends it; until then a rebalance waits.
    /// All partitions' at once: what one waits for, another is worked on, and one append may take them all.
    pub(super) fn begin(
        runtime: &Handle,
        commands: &Commands,
        polls: Polls,
        ahead: &VecDeque<Self>,
        no_rebalance: Option<OwnedRwLockReadGuard<()>>,
    ) -> Self {
        let polls = Arc::new(polls);
        let ahead = ahead.iter().filter(|it| it.polls.assignment == polls.assignment);
        let ahead = ahead.map(|it| (Arc::clone(&it.polls), it.decided.clone()));
        let ahead: Vec<_> = ahead.collect();
        let (tell, told) = oneshot::channel();
        let (commands, read) = (commands.clone(), Arc::clone(&polls));
        let tried = runtime.spawn(async move {
            let _no_rebalance = no_rebalance;
            let decided = decide(&commands, &read, ahead).await;
            let appended = append(&commands, &read, decided.clone());
            // Second: by then it nearly always waits in the appender's queue. What comes in before it would be in vain.
            let (tried, _) = join(appended, async { tell.send(decided) }).await;
            tried
        });
        Self {
            polls,
            decided: told.shared(),
            tried,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.tried.is_finished()
    }
}

async fn decide(
    commands: &Commands,
    polls: &Polls,
    ahead: Vec<(Arc<Polls>, Shared<oneshot::Receiver<Decided>>)>,
) -> Decided {
    let mut decided = Vec::with_capacity(ahead.len());
    for (polls, staged) in ahead {
        decided.push((polls, staged.await.ok()??));
    }
    let ahead = decided
        .iter()
        .flat_map(|(polls, staged)| polls.by_partition.values().zip(staged.iter()));
    let ahead = Ahead::of(ahead);
    let polls = polls.by_partition.values();
    let staged = try_join_all(polls.map(|poll| commands.stage_poll(poll, &ahead))).await;
    if let Err(error) = &staged {
        // One that does not pass is met again when it is decided anew.
        tracing::debug!(error = %Report(error), "a poll could not be decided ahead");
    }
    staged.ok().map(Arc::new)
}

async fn append(commands: &Commands, polls: &Polls, decided: Decided) -> Vec<Tried> {
    let polls = polls.by_partition.values();
    match decided {
        Some(staged) => {
            let polls = polls.zip(staged.iter());
            join_all(polls.map(|(poll, staged)| commands.append_staged(poll, staged))).await
        }
        None => polls.map(|_| Ok(None)).collect(),
    }
}
