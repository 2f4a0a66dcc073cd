//! What access tokens and members are, and what they may do: the rules, and nothing else.
//!
//! Everything here is synchronous, pure and total. Time, randomness, ids and positions come in with the command or the
//! question; nothing here reads a clock, draws a random number, does IO or panics. So any past answer can be given again
//! from the log alone.
//!
//! - [`ids`]: who and what is meant, as types that can't be mixed up.
//! - [`secret`]: what a caller keeps, the digest we keep, the hint people may see.
//! - [`access_token`], [`member`], [`organization`]: the aggregates, each decided from its own stream.
//! - [`authorization`]: may this subject do this, here, now, and why.
//! - [`as_of`]: what a token could do at a position of the log, and which events put it so.
//! - [`upcast`]: events as older versions have stored them.
//! - [`policy`]: FeatBit's policy algebra: resource names and patterns, statements, decisions, coverage.

pub mod access_token;
pub mod as_of;
pub mod authorization;
pub mod ids;
pub mod member;
pub mod organization;
pub mod policy;
pub mod secret;
pub mod upcast;

mod stored;

#[cfg(test)]
mod samples;
