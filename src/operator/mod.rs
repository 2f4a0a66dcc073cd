//! The commands of who keeps the database: replays, the log as evidence, parked messages. They need `DATABASE_URL` alone, of
//! the role that owns the schema, and work while nodes run. What they say goes to standard error.

mod audit;
mod parked;
mod progress;
mod replay;

pub use audit::{AuditCommand, AuditError, audit};
pub use parked::{ParkedCommand, ParkedError, parked};
pub use replay::{ReplayError, ReplayOptions, replay};
