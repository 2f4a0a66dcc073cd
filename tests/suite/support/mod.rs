//! What the tests stand on.

mod app;
pub mod check;
mod database;

pub use app::{Actor, Answer, JWT_KEY, Options, TestApp, cloud_event, eventually, jwt};
pub use database::TestDatabase;
