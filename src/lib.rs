//! The access-token authority for FeatBit: the rooms of the service. `app` puts them together, `main` is the command
//! line.

pub mod app;
pub mod authorization;
pub mod clock;
pub mod commands;
pub mod config;
pub mod dev;
pub mod follow;
pub mod http;
pub mod intake;
pub mod log;
pub mod reactor;
pub mod report;
pub mod schema;
