//! Ids as types of their own, so that a member can't be passed where a token is meant.
//!
//! An id is made outside (the domain draws no random numbers); here it is only carried, compared and written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The uuid behind the id, for SQL and for the wire.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// An organization: FeatBit's `organizations.id`. Nothing but built-in policies crosses it.
    OrganizationId
}

id! {
    /// A member of an organization: FeatBit's `organization_users.user_id`, and claim `id` of its JWT.
    MemberId
}

id! {
    /// An access token. UUIDv7 for those made here; imported ones keep theirs.
    TokenId
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "98881f6a-5c6c-4277-bcf7-fda94c538785";

    #[test]
    fn an_id_is_written_as_its_bare_uuid_and_read_back() {
        let id: MemberId = TEXT.parse().expect("a uuid");
        let json = serde_json::to_string(&id).expect("serializes");
        assert_eq!(json, format!("\"{TEXT}\""));
        assert_eq!(serde_json::from_str::<MemberId>(&json).expect("reads"), id);
        assert_eq!(id.to_string(), TEXT);
        assert_eq!(MemberId::from(id.as_uuid()), id);
    }

    #[test]
    fn text_that_is_no_uuid_is_no_id() {
        assert!("owner".parse::<TokenId>().is_err());
    }
}
