//! The commands of who keeps the database: replays. They need `DATABASE_URL` alone, of the role that owns the schema, and
//! work while nodes run. What they say goes to standard error.

mod progress;
mod replay;

pub use replay::{ReplayError, ReplayOptions, replay};
