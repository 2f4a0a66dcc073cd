//! What the tests stand on.

mod app;
mod database;

pub use app::{Actor, Answer, Options, TestApp, cloud_event, eventually};
pub use database::TestDatabase;
