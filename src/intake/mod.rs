//! The membership topic: bytes to commands, and the consumer that hands them to `commands` poll by poll.

mod consumer;
pub mod member_events;

pub use consumer::{Intake, IntakeConfig, IntakeState, StartIntakeError};
