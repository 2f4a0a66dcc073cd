//! Decisions from memory: the index every node holds complete, the tailer that feeds it from the log, and the fence that its
//! lease keeps open, without which it denies. No database is asked when a question comes in. And the other side of the lease:
//! whoever takes permission away waits until no node can decide without knowing it.

mod contents;
mod fence;
mod index;
mod last_used;
mod leases;
mod revocations;
pub mod search;
mod shared_rules;
mod starting;
mod tailer;
#[cfg(test)]
mod tests;

pub use fence::{Fence, Pass};
pub use index::{Bearer, Index, Subject};
pub use last_used::LastUsed;
pub use revocations::{Confirmation, NotConfirmed, Revocations};
pub use tailer::{Read, StepError, Tailer};
