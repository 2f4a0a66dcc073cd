//! What the tests stand on.

mod app;
pub mod check;
mod database;
mod process;
mod proxy;

pub use app::{
    Actor, Answer, INTAKE_KEY, JWT_KEY, Options, TestApp, cloud_event, eventually, jwt, poll,
    running_appender,
};
pub use database::TestDatabase;
pub use process::{Process, free_port};
pub use proxy::{Network, Proxy};
