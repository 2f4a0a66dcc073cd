//! The service as its users meet it: real PostgreSQL, a real broker, real HTTP. One binary, since linking is what costs.
//! Every test has a database of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stderr,
    reason = "a test that can't go on fails by panicking"
)]
#![allow(missing_docs, unreachable_pub, reason = "tests are read, not called")]

mod audit;
mod command_line;
mod connections;
mod crash;
mod evaluation;
mod evolution;
mod following;
mod gateways;
mod hostile;
mod hygiene;
mod intake;
mod log;
mod management;
mod openapi;
mod replay;
mod revocation;
mod starting;
mod support;
mod written;
