//! The membership topic: bytes to commands, and the consumer that hands them to `commands` poll by poll.

mod assignments;
mod consumer;
pub mod member_events;
mod meters;
mod polls;
mod state;
mod under_way;

pub use consumer::{Intake, IntakeConfig, StartIntakeError, Watched};
pub use meters::{DecisionTimer, Meters, PartitionLabel};
pub use state::IntakeState;
