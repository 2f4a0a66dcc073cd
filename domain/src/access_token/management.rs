//! Who may manage tokens: FeatBit's three permissions and the rules of ownership, from the caller's own stream. FeatBit
//! checks these only in its web page; here the server does.

#[cfg(test)]
mod tests;

use super::{Token, TokenType};
use crate::ids::MemberId;
use crate::member::Member;
use crate::policy::Statement;

const ACCESS_TOKENS: &str = "access-token/*";
const IAM: &str = "iam/*";
const LIST: &str = "ListAccessTokens";
const MANAGE_PERSONAL: &str = "ManagePersonalAccessTokens";
const MANAGE_SERVICE: &str = "ManageServiceAccessTokens";
const MANAGE_IAM: &str = "CanManageIAM";

/// What a caller wants to do to a token that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its name, description, or what only narrows it.
    Edit,
    /// Make it usable again, or usable longer or from more addresses: its secret is armed.
    Arm,
    /// Make it unusable.
    Disarm,
}

/// May the caller list and read the organization's tokens?
#[must_use]
pub fn may_list(caller: &Member) -> bool {
    caller.may(LIST, ACCESS_TOKENS)
}

/// May the caller read the organization's audit log?
#[must_use]
pub fn may_audit(caller: &Member) -> bool {
    caller.may(MANAGE_IAM, IAM)
}

/// May the caller ask whether a name is taken? Any of the three permissions will do.
#[must_use]
pub fn may_ask_for_names(caller: &Member) -> bool {
    [LIST, MANAGE_PERSONAL, MANAGE_SERVICE]
        .iter()
        .any(|action| caller.may(action, ACCESS_TOKENS))
}

/// May the caller create tokens of this type?
#[must_use]
pub fn may_create(caller: &Member, token_type: TokenType) -> bool {
    match token_type {
        TokenType::Personal => caller.may(MANAGE_PERSONAL, ACCESS_TOKENS),
        TokenType::Service => caller.may(MANAGE_SERVICE, ACCESS_TOKENS),
    }
}

/// May the caller change this token? Somebody else's personal token can only be stopped, and only by a member who also
/// manages IAM. Arming a service token needs permission for all it may do.
#[must_use]
pub fn may_change(caller_id: MemberId, caller: &Member, token: &Token, change: Change) -> bool {
    if !may_create(caller, token.token_type) {
        return false;
    }
    match (token.token_type, change) {
        (TokenType::Personal, _) if token.creator_id == caller_id => true,
        (TokenType::Personal, Change::Disarm) => caller.may(MANAGE_IAM, IAM),
        (TokenType::Personal, Change::Edit | Change::Arm) => false,
        (TokenType::Service, Change::Edit | Change::Disarm) => true,
        (TokenType::Service, Change::Arm) => {
            let statements: Vec<Statement> = token.permission.statements().cloned().collect();
            is_under_ceiling(caller, token.token_type, &statements)
        }
    }
}

/// May the caller create tokens of this type with these statements? A service token never exceeds the permission of the
/// member who makes it; a personal token needs no ceiling, it can only narrow what its creator may do.
#[must_use]
pub fn is_under_ceiling(caller: &Member, token_type: TokenType, statements: &[Statement]) -> bool {
    match token_type {
        TokenType::Personal => true,
        TokenType::Service => caller.permission().covers(statements),
    }
}
