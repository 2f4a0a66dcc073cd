//! Which commands this node's appender has appended lately. Who rests on one that is not among them conflicts, and is decided
//! again: to forget one costs time and nothing else.

use std::collections::HashSet;

use uuid::Uuid;

/// Commands of one generation; two are kept. Who rests on a command is handed in while that is on its way, or soon after.
const MAX_COMMANDS: usize = 4096;

/// Commands that stand in the log.
#[derive(Debug, Default)]
pub(super) struct LatelyAppended {
    newer: HashSet<Uuid>,
    older: HashSet<Uuid>,
}

impl LatelyAppended {
    /// It stands.
    pub(super) fn add(&mut self, command_id: Uuid) {
        if self.newer.len() >= MAX_COMMANDS {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(command_id);
    }

    /// Whether all of these are known to stand.
    pub(super) fn has_all(&self, command_ids: &[Uuid]) -> bool {
        let has = |command_id| self.newer.contains(command_id) || self.older.contains(command_id);
        command_ids.iter().all(has)
    }
}
