//! FeatBit's policy algebra, exactly: who may do what on which resource.
//!
//! A [`Statement`] allows or denies actions on resources; a resource is named by text such as
//! `project/web:env/prod:flag/dark;beta`, and a [`ResourcePattern`] says which names are meant. A [`Permission`] is what a
//! member has: statements and revocations in the order in which they took force. It gives a [`Decision`], and says
//! whether it covers the statements of a service token.
//!
//! Nothing here knows tokens or members, and nothing here looks up what a resource is: tags come with the name.

pub mod built_in;

mod action;
mod coverage;
mod decision;
mod glob;
mod granted;
mod pattern;
mod resource_name;
mod resource_text;
mod statement;

pub use action::Action;
pub use decision::{Decision, Entry, Permission, Revocation};
pub use granted::{Granted, Rules, StatementId, Verdict};
pub use pattern::ResourcePattern;
pub use resource_name::{InvalidResourceName, ResourceName, Segment};
pub use statement::{Effect, Statement};

#[cfg(test)]
mod properties;
