//! The write side of the log. `commands` builds a unit of work, the unit becomes an append request, and the appender puts
//! whatever is waiting into the log with one statement. Nothing else writes events.

mod appender;
mod request;
mod text;
mod unit_of_work;
mod written;

pub use appender::{AppendError, Appender, AppenderTask};
pub use request::{
    AppendOutcome, AppendRequest, IdempotencyEntry, InboxKey, NameChange, NewEvent, OffsetMove, ParkedChange,
    ParkedMessage, Partition, Profile, Recorded, Room, Stream, TokenCount, UsedKey,
};
pub use text::has_nul;
pub use unit_of_work::{UnitError, UnitOfWork};
pub use written::Written;
