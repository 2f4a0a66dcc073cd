//! The membership topic for measurements and soaks: what a seed tells of some members, and whether the service has made of it
//! what a naive model does.

mod check;
mod model;
mod story;

pub use check::{Check, Checked};
pub use story::{Said, Story};
