//! What can be measured of a node, in one registry: whoever counts or measures holds its own meter, which is named here and
//! nowhere else.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::commands::counters::MessageCounts;
use crate::intake::Meters;

/// Every meter of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// The last position that decisions know.
    pub position: Gauge,
    /// The last position that each read model holds.
    pub read_models: Family<ReadModelLabel, Gauge>,
    /// Messages that are parked, of all organizations.
    pub parked: Gauge,
    /// 1 where the node is ready.
    pub ready: Gauge,
}

/// One read model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadModelLabel {
    /// Its name.
    pub read_model: &'static str,
}

impl Metrics {
    /// The registry of everything, and the meters that are read when they are asked for.
    #[must_use]
    pub fn new(messages: MessageCounts, intake: Meters) -> Self {
        let metrics = Self {
            registry: Arc::default(),
            position: Gauge::default(),
            read_models: Family::default(),
            parked: Gauge::default(),
            ready: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("featbit_tokens");
        registry.register(
            "membership_messages",
            "Membership messages that were taken, by type and by what became of them",
            messages,
        );
        registry.register(
            "intake_lag_messages",
            "Messages of this node's partitions that are not taken yet",
            intake.lag,
        );
        registry.register(
            "intake_lag_seconds",
            "How old the last taken message of a partition was, where there are more",
            intake.lag_seconds,
        );
        registry.register(
            "intake_to_decision_seconds",
            "From the broker's timestamp of a membership message until decisions hold it",
            intake.decided,
        );
        registry.register(
            "position",
            "The last position that decisions know",
            metrics.position.clone(),
        );
        registry.register(
            "read_model_position",
            "The last position that a read model holds",
            metrics.read_models.clone(),
        );
        registry.register(
            "parked_messages",
            "Membership messages that are parked",
            metrics.parked.clone(),
        );
        registry.register("ready", "1 where the node is ready", metrics.ready.clone());
        Self {
            registry: Arc::new(registry),
            ..metrics
        }
    }

    /// All of it, in the OpenMetrics text format.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
