//! An organization, as far as tokens care: whether it still exists. Its removal ends every membership and every token in
//! it, service tokens too.

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

use crate::ids::OrganizationId;
use crate::stored::stored_events;
use crate::upcast::current_version;

/// The state of one organization's stream. It keeps nothing: a removed organization may come back, and each removal
/// ends what there was until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization;

/// What can be asked of an organization's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrganizationCommand {
    /// `OrganizationRemoved` was heard.
    Remove(OrganizationId),
}

stored_events! {
    /// What happened to an organization.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum OrganizationEvent = "OrganizationEvent" {
        /// Every member and every token up to here is gone.
        #[serde(rename = "organization.removed", rename_all = "camelCase")]
        Removed {
            /// Which organization.
            organization_id: OrganizationId,
        },
    }
}

impl OrganizationEvent {
    /// All that are stored.
    pub const TYPES: [&str; 1] = ["organization.removed"];
}

impl DomainEvent for OrganizationEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Removed { .. } => "organization.removed".to_owned(),
        }
    }

    fn event_version(&self) -> String {
        current_version(&self.event_type()).to_owned()
    }
}

impl Organization {
    /// The events that a command comes to.
    #[must_use]
    pub fn decide(self, command: OrganizationCommand) -> OrganizationEvent {
        match command {
            OrganizationCommand::Remove(organization_id) => OrganizationEvent::Removed { organization_id },
        }
    }
}

impl Aggregate for Organization {
    const TYPE: &'static str = "organization";
    type Command = OrganizationCommand;
    type Event = OrganizationEvent;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        sink.write(self.decide(command), self).await;
        Ok(())
    }

    fn apply(&mut self, event: OrganizationEvent) {
        match event {
            OrganizationEvent::Removed { .. } => *self = Self,
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;
    use crate::samples::organization;

    #[tokio::test]
    async fn a_removal_is_an_event_each_time_for_the_organization_may_have_come_back() {
        let organization_id = organization();
        let removed = OrganizationEvent::Removed { organization_id };
        for given in [vec![], vec![removed]] {
            TestFramework::<Organization>::with(())
                .given(given)
                .when_async(OrganizationCommand::Remove(organization_id))
                .await
                .then_expect_events(vec![removed]);
        }
    }
}
