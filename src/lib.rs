//! The access-token authority for FeatBit: the rooms of the service. `app` puts them together, `main` is the command
//! line.

pub mod authorization;
pub mod clock;
pub mod commands;
pub mod follow;
pub mod log;
pub mod reactor;
