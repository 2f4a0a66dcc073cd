//! Decisions from memory: the index every node holds complete, the tailer that feeds it from the log, and the freshness
//! without which it denies. No database is asked when a question comes in.

mod index;
mod tailer;

pub use index::{Index, Subject};
pub use tailer::Tailer;
