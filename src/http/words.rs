//! What happened, in words a person reads: beside the codes, for those who look through histories and the audit log. No
//! program should look into them.

use domain::access_token::{AccessTokenEvent, DeactivationReason, TokenType};
use domain::member::MemberEvent;
use projections::log::Fact;

/// Items of a list that are named.
const NAMED: usize = 3;

/// Whose story is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Story {
    /// Of a token: what happens to a member happens to its creator.
    pub(super) is_of_token: bool,
    /// Where the creator's removal stands by which the token was deactivated, if that is known.
    pub(super) creator_left_at: Option<i64>,
}

/// The words for an event.
pub(super) fn told(fact: &Fact, story: Story) -> String {
    match fact {
        Fact::AccessToken(fact) => of_token(fact, story),
        Fact::Member(fact) if story.is_of_token => format!("its creator {}", of_member(fact)),
        Fact::Member(fact) => of_member(fact),
        Fact::Organization(_) => "the organization was removed".to_owned(),
    }
}

fn of_token(fact: &AccessTokenEvent, story: Story) -> String {
    match fact {
        AccessTokenEvent::Created(created) => {
            let name = created.name.as_str();
            match created.token_type {
                TokenType::Personal if created.statements.is_empty() => {
                    format!("created: personal token \"{name}\"")
                }
                TokenType::Personal => {
                    format!(
                        "created: personal token \"{name}\", narrowed by {}",
                        statements(created.statements.len())
                    )
                }
                TokenType::Service => {
                    format!(
                        "created: service token \"{name}\", with {}",
                        statements(created.statements.len())
                    )
                }
            }
        }
        AccessTokenEvent::Renamed { name, .. } => format!("renamed: \"{}\"", name.as_str()),
        AccessTokenEvent::DescriptionChanged { description, .. } => match description {
            Some(_) => "described anew".to_owned(),
            None => "description taken away".to_owned(),
        },
        AccessTokenEvent::ExpiryChanged { expires_at, .. } => match expires_at {
            Some(time) => format!("expires on {}", time.format("%Y-%m-%d at %H:%M:%S UTC")),
            None => "does not expire any more".to_owned(),
        },
        AccessTokenEvent::AllowedIpsChanged { allowed_ips, .. } => {
            let networks: Vec<String> = allowed_ips.iter().map(ToString::to_string).collect();
            match networks.as_slice() {
                [] => "may be used from everywhere".to_owned(),
                networks => format!("may be used only from {}", list(networks)),
            }
        }
        AccessTokenEvent::SecretRotated { previous_until, .. } => match previous_until {
            Some(time) => {
                let time = time.format("%Y-%m-%d at %H:%M:%S UTC");
                format!("another secret; the one before works until {time}")
            }
            None => "another secret; the one before has ended".to_owned(),
        },
        AccessTokenEvent::Activated { .. } => "activated".to_owned(),
        AccessTokenEvent::Deactivated { reason, .. } => match reason {
            DeactivationReason::ByMember => "deactivated by a member".to_owned(),
            DeactivationReason::CreatorRemoved { .. } => {
                let event = story
                    .creator_left_at
                    .map(|position| format!(" (event {})", grouped(position)));
                format!(
                    "deactivated: its creator left the organization{}",
                    event.unwrap_or_default()
                )
            }
            DeactivationReason::Expired => "deactivated: its time was over".to_owned(),
        },
        AccessTokenEvent::Removed { .. } => "removed for ever".to_owned(),
    }
}

/// What a member did or got, to stand after whoever that is.
fn of_member(fact: &MemberEvent) -> String {
    match fact {
        MemberEvent::Added { statements: all, .. } => {
            format!("joined the organization, with {}", statements(all.len()))
        }
        MemberEvent::PermissionGranted { statements: all, .. } => {
            format!("was granted {}", statements(all.len()))
        }
        MemberEvent::PermissionRevoked {
            permission,
            resources,
            ..
        } => {
            let permission = match permission.as_str() {
                "*" => "everything",
                other => other,
            };
            match resources {
                None => format!("lost {permission} everywhere"),
                Some(resources) => {
                    let resources: Vec<String> = resources
                        .iter()
                        .map(|pattern| pattern.as_str().to_owned())
                        .collect();
                    format!("lost {permission} on {}", list(&resources))
                }
            }
        }
        MemberEvent::PermissionsReplaced { statements: all, .. } => {
            format!(
                "may do from now on what {} say, and nothing else",
                statements(all.len())
            )
        }
        MemberEvent::Removed { .. } => "left the organization".to_owned(),
        MemberEvent::Blocked { reason, .. } => {
            format!("was blocked: a message about the member could not be used ({reason})")
        }
        MemberEvent::MessageDropped {
            message_type, reason, ..
        } => {
            let message = message_type.as_deref().unwrap_or("a message");
            format!("will never get what {message} said, which could not be used ({reason})")
        }
        MemberEvent::Released { .. } => "was released: no message holds the member any more".to_owned(),
    }
}

fn statements(count: usize) -> String {
    match count {
        0 => "no statements".to_owned(),
        1 => "1 statement".to_owned(),
        count => format!("{count} statements"),
    }
}

/// The first few, and how many more there are.
fn list(items: &[String]) -> String {
    let named: Vec<&str> = items.iter().take(NAMED).map(String::as_str).collect();
    let named = named.join(", ");
    match items.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// With a comma for each thousand.
fn grouped(position: i64) -> String {
    let digits = position.to_string();
    let mut grouped = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && digits.len().saturating_sub(nth).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_by_thousands() {
        for (position, text) in [
            (1, "1"),
            (999, "999"),
            (1000, "1,000"),
            (48_213, "48,213"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(position), text);
        }
    }

    #[test]
    fn a_long_list_is_told_by_its_first_items() {
        let items: Vec<String> = (1..=5).map(|nth| format!("n{nth}")).collect();
        assert_eq!(list(&items[..3]), "n1, n2, n3");
        assert_eq!(list(&items), "n1, n2, n3 and 2 more");
    }
}
