//! From the log to the read models. The log is read by position, without gaps; each read model is a projector, a list of
//! (event, statement); one runner feeds any of them and moves its checkpoint in the same transaction. Live and replay are
//! the same loop.

pub mod access_tokens;
pub mod as_of;
pub mod audit_log;
pub mod checkpoint;
pub mod compare;
mod copy;
pub mod credentials;
mod fill;
pub mod history;
mod loan;
pub mod log;
pub mod members;
pub mod parked;
pub mod rebuild;
pub mod replay;
pub mod runner;
mod tables;
pub mod tail;
