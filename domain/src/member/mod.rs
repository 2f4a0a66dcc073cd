//! A member of an organization: whether it belongs, under which membership number, and what it may do now. Decided from
//! its own stream alone. With versions the result does not depend on the order in which the events arrive: whether it
//! belongs is settled by the highest placed `MemberAdded` or `MemberRemoved`, its statements by the highest placed full
//! state (those two and `PermissionsReplaced`) and what stands after that.

mod command;
mod event;
mod permission;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use command::{MemberChange, MemberCommand, MemberRefusal, MembershipFact};
pub use event::{MemberEvent, Place};
use permission::{Change, PermissionHistory};

use crate::ids::{MemberId, OrganizationId};
use crate::policy::{Entry, Granted, Permission, Revocation};
use crate::upcast::Upcaster;

/// Changes of shape of a member's events: none yet.
pub(crate) const UPCASTERS: &[Upcaster] = &[];

/// The state of one member's stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    order: Order,
    presence: Presence,
    membership_number: u32,
    history: PermissionHistory,
    delivery: Delivery,
}

/// What others need to know of a member to decide: computed once from its stream, not for every question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Does it belong to the organization?
    pub is_member: bool,
    /// Is one of its messages parked?
    pub is_blocked: bool,
    /// Which membership this is.
    pub membership_number: u32,
    /// What it may do.
    pub permission: Granted,
}

/// How the member's events are ordered: settled by the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Order {
    #[default]
    Unsettled,
    ByVersion,
    ByArrival {
        heard: i64,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Presence {
    /// Nothing was ever heard of it.
    #[default]
    Unknown,
    /// Heard of, never added: a member without permission until a full state comes.
    Assumed,
    Present {
        since: i64,
    },
    Removed {
        since: i64,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Delivery {
    #[default]
    Flowing,
    Blocked,
}

impl Member {
    /// The id of a member's stream: members are per organization.
    #[must_use]
    pub fn stream_id(organization_id: OrganizationId, member_id: MemberId) -> String {
        format!("{organization_id}:{member_id}")
    }

    /// Does it belong to the organization now?
    #[must_use]
    pub fn is_member(&self) -> bool {
        match self.presence {
            Presence::Assumed | Presence::Present { .. } => true,
            Presence::Unknown | Presence::Removed { .. } => false,
        }
    }

    /// Is one of its messages parked, so that what it may do is not known?
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.delivery == Delivery::Blocked
    }

    /// Which membership this is, from 1: it rises with each `MemberAdded` after a removal.
    #[must_use]
    pub fn membership_number(&self) -> u32 {
        self.membership_number.max(1)
    }

    /// What it may do: nothing unless it is a member.
    #[must_use]
    pub fn permission(&self) -> Permission {
        Permission::new(self.entries().map(|(_, entry)| entry).collect())
    }

    /// What its permission consists of, in order, each entry with the number of the place (see [`Place`]) of the event
    /// that put it in force.
    pub fn entries(&self) -> impl Iterator<Item = (i64, Entry)> {
        let in_force = self.is_member().then(|| self.history.in_force());
        in_force.into_iter().flatten()
    }

    /// How many entries its permission has at most, without putting it together.
    #[must_use]
    pub fn most_entries(&self) -> usize {
        self.history.most_entries()
    }

    /// All of the above at once.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            is_member: self.is_member(),
            is_blocked: self.is_blocked(),
            membership_number: self.membership_number(),
            permission: Granted::new(self.permission()),
        }
    }

    /// May it do this, for the management of tokens? A blocked member may do nothing.
    #[must_use]
    pub fn may(&self, action: &str, resource: &str) -> bool {
        !self.is_blocked() && self.permission().decide(resource, action).is_allowed()
    }

    /// The events that a command comes to; none where it is already true, stale or repeated.
    ///
    /// # Errors
    /// [`MemberRefusal::MixedOrder`] where the member's events had versions and this has none, or the other way round.
    pub fn decide(&self, command: MemberCommand) -> Result<Vec<MemberEvent>, MemberRefusal> {
        let MemberCommand {
            organization_id,
            member_id,
            change,
        } = command;
        let event = match change {
            MemberChange::Membership { version, fact } => {
                let place = self.place(version)?;
                self.takes(place, &fact)
                    .then(|| self.event(organization_id, member_id, place, fact))
            }
            MemberChange::EndWithOrganization => self
                .last_place()
                .filter(|place| !self.is_removed_at(*place))
                .map(|place| self.removed(organization_id, member_id, place)),
            MemberChange::Block { parked_id, reason } => {
                (!self.is_blocked()).then_some(MemberEvent::Blocked {
                    organization_id,
                    member_id,
                    parked_id,
                    reason,
                })
            }
            MemberChange::DropMessage {
                parked_id,
                reason,
                message_type,
            } => Some(MemberEvent::MessageDropped {
                organization_id,
                member_id,
                parked_id,
                reason,
                message_type,
            }),
            MemberChange::Release => self.is_blocked().then_some(MemberEvent::Released {
                organization_id,
                member_id,
            }),
        };
        Ok(event.into_iter().collect())
    }

    fn place(&self, version: Option<i64>) -> Result<Place, MemberRefusal> {
        match (self.order, version) {
            (Order::Unsettled | Order::ByVersion, Some(version)) => Ok(Place::Version(version)),
            (Order::Unsettled, None) => Ok(Place::Arrival(1)),
            (Order::ByArrival { heard }, None) => Ok(Place::Arrival(heard.saturating_add(1))),
            (Order::ByVersion, None) | (Order::ByArrival { .. }, Some(_)) => Err(MemberRefusal::MixedOrder),
        }
    }

    fn takes(&self, place: Place, fact: &MembershipFact) -> bool {
        let place = place.number();
        match fact {
            MembershipFact::Added { .. } | MembershipFact::Removed => {
                self.presence.takes(place) || self.history.takes_full_state(place)
            }
            MembershipFact::Replaced { .. } => self.history.takes_full_state(place),
            MembershipFact::Granted { .. } | MembershipFact::Revoked(_) => self.history.takes_change(place),
        }
    }

    fn event(
        &self,
        organization_id: OrganizationId,
        member_id: MemberId,
        place: Place,
        fact: MembershipFact,
    ) -> MemberEvent {
        match fact {
            MembershipFact::Added { statements } => MemberEvent::Added {
                organization_id,
                member_id,
                place,
                membership_number: self.number_after_added(place.number()),
                statements,
            },
            MembershipFact::Granted { statements } => MemberEvent::PermissionGranted {
                organization_id,
                member_id,
                place,
                statements,
            },
            MembershipFact::Revoked(Revocation {
                permission,
                resources,
            }) => MemberEvent::PermissionRevoked {
                organization_id,
                member_id,
                place,
                permission,
                resources,
            },
            MembershipFact::Replaced { statements } => MemberEvent::PermissionsReplaced {
                organization_id,
                member_id,
                place,
                statements,
            },
            MembershipFact::Removed => self.removed(organization_id, member_id, place),
        }
    }

    fn removed(&self, organization_id: OrganizationId, member_id: MemberId, place: Place) -> MemberEvent {
        MemberEvent::Removed {
            organization_id,
            member_id,
            place,
            membership_number: self.membership_number(),
        }
    }

    /// The place that everything heard so far stands at or below.
    fn last_place(&self) -> Option<Place> {
        match self.order {
            Order::Unsettled => None,
            Order::ByArrival { heard } => Some(Place::Arrival(heard)),
            Order::ByVersion => self
                .presence
                .since()
                .max(self.history.last_place())
                .map(Place::Version),
        }
    }

    fn is_removed_at(&self, place: Place) -> bool {
        self.presence
            == Presence::Removed {
                since: place.number(),
            }
    }

    fn number_after_added(&self, place: i64) -> u32 {
        match self.presence {
            Presence::Removed { since } if place > since => self.membership_number().saturating_add(1),
            _ => self.membership_number(),
        }
    }

    fn heard(&mut self, place: Place) {
        self.order = match place {
            Place::Version(_) => Order::ByVersion,
            Place::Arrival(heard) => Order::ByArrival { heard },
        };
        if self.presence == Presence::Unknown {
            self.presence = Presence::Assumed;
        }
    }
}

impl Presence {
    fn since(self) -> Option<i64> {
        match self {
            Self::Unknown | Self::Assumed => None,
            Self::Present { since } | Self::Removed { since } => Some(since),
        }
    }

    /// Is an event at this place above what is known? (One at the same place is a repetition.)
    fn takes(self, place: i64) -> bool {
        self.since().is_none_or(|since| place > since)
    }
}

impl Aggregate for Member {
    const TYPE: &'static str = "member";
    type Command = MemberCommand;
    type Event = MemberEvent;
    type Error = MemberRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Added {
                place,
                membership_number,
                statements,
                ..
            } => {
                self.heard(place);
                self.presence = Presence::Present {
                    since: place.number(),
                };
                self.membership_number = membership_number;
                self.history.set(place.number(), statements);
            }
            MemberEvent::PermissionGranted {
                place, statements, ..
            } => {
                self.heard(place);
                self.history.change(place.number(), Change::Granted(statements));
            }
            MemberEvent::PermissionRevoked {
                place,
                permission,
                resources,
                ..
            } => {
                self.heard(place);
                self.history.change(
                    place.number(),
                    Change::Revoked(Revocation {
                        permission,
                        resources,
                    }),
                );
            }
            MemberEvent::PermissionsReplaced {
                place, statements, ..
            } => {
                self.heard(place);
                self.history.set(place.number(), statements);
            }
            MemberEvent::Removed { place, .. } => {
                self.heard(place);
                self.presence = Presence::Removed {
                    since: place.number(),
                };
                self.history.set(place.number(), Vec::new());
            }
            MemberEvent::Blocked { .. } => self.delivery = Delivery::Blocked,
            MemberEvent::MessageDropped { .. } => {}
            MemberEvent::Released { .. } => self.delivery = Delivery::Flowing,
        }
    }
}
