//! What this crate holds others to, and is held to: facts about FeatBit, and the events that are stored already.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where a fact or a fixture is missing"
)]

mod conformance;
mod fixtures;
mod fuzzing;
