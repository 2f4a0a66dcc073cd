//! The access-token authority for FeatBit: the rooms of the service. `app` puts them together, `main` is the command
//! line.
//!
//! Floors, from the ground; a file imports only from floors below its own:
//!
//! 1. the crates `domain` and `projections`; [`report`], [`clock`], [`database`], `joined`, `lately`
//! 2. [`audit`] (the log as evidence), [`log`] (the write side), [`follow`] (who is woken by it), [`schema`],
//!    [`retention`]
//! 3. [`commands`] (the only writer), [`authorization`] (decisions from memory)
//! 4. [`intake`], [`reactor`]; [`metrics`]
//! 5. [`http`]
//! 6. [`config`], [`app`]
//! 7. [`dev`], [`operator`] (the commands of who keeps the database), and `main`

pub mod app;
pub mod audit;
pub mod authorization;
pub mod clock;
pub mod commands;
pub mod config;
pub mod database;
pub mod dev;
pub mod follow;
pub mod http;
pub mod intake;
mod joined;
mod lately;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod reactor;
pub mod report;
pub mod retention;
pub mod schema;
