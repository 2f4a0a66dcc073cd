//! The commands of who keeps the database: replays, and the log as evidence. They need `DATABASE_URL` alone, of the role that owns the schema, and
//! work while nodes run. What they say goes to standard error.

mod audit;
mod progress;
mod replay;

pub use audit::{AuditCommand, AuditError, audit};
pub use replay::{ReplayError, ReplayOptions, replay};
