//! An organization as there are many: an owner, a few administrators, developers; and tokens, most of them personal, the
//! service ones with permissions that resemble each other. All by the domain's own commands.

use domain::access_token::{AccessToken, AccessTokenCommand, Created, TokenName, TokenType};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{Member, MemberChange, MemberCommand, MembershipFact};
use domain::policy::{Action, Effect, Permission, ResourcePattern, Statement, built_in};
use domain::secret::Secret;
use featbit_tokens::log::{NameChange, Profile, Room, TokenCount, UnitError, UnitOfWork};

use crate::draw::Draw;

/// What every token that is handed to a load client may do.
pub const ACTION: &str = "ToggleFlag";
/// And where.
pub const RESOURCE: &str = "project/web:env/prod:flag/dark-mode;beta,team-a";

/// In a hundred tokens so many are personal.
const PERSONAL: usize = 60;
/// In a hundred personal tokens so many are narrowed.
const NARROWED: usize = 10;
const PROJECTS: [&str; 4] = ["web", "mobile", "billing", "internal"];
const ENVIRONMENTS: [&str; 3] = ["prod", "staging", "dev"];

/// Whom it consists of.
#[derive(Debug)]
pub struct Organization {
    /// Which.
    pub id: OrganizationId,
    members: Vec<Person>,
    draw: Draw,
    issued: u64,
}

#[derive(Debug)]
struct Person {
    id: MemberId,
    statements: Vec<Statement>,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// Which.
    pub token_id: TokenId,
    /// What its bearer presents.
    pub secret: Secret,
    /// Personal or service.
    pub token_type: TokenType,
    /// May it do [`ACTION`] on [`RESOURCE`]?
    pub is_permitted: bool,
}

impl Organization {
    /// One with so many members.
    #[must_use]
    pub fn new(mut draw: Draw, members: usize) -> Self {
        let id = draw.uuid().into();
        let members = (0..members.max(1))
            .map(|number| Person {
                id: draw.uuid().into(),
                statements: match number {
                    0 => built_in::owner(),
                    1..=2 => built_in::administrator(),
                    _ => built_in::developer(),
                },
            })
            .collect();
        Self {
            id,
            members,
            draw,
            issued: 0,
        }
    }

    /// Its members join.
    ///
    /// # Errors
    /// Where a unit can't stage.
    pub async fn join(&self, unit: &UnitOfWork) -> Result<(), UnitError> {
        for (number, person) in self.members.iter().enumerate() {
            let stream_id = Member::stream_id(self.id, person.id);
            let command = MemberCommand {
                organization_id: self.id,
                member_id: person.id,
                change: MemberChange::Membership {
                    version: None,
                    fact: MembershipFact::Added {
                        statements: person.statements.clone(),
                    },
                },
            };
            unit.rest_on::<Member>(&stream_id, 0);
            taken(unit.execute::<Member>(&stream_id, command).await?)?;
            unit.write_profile(Profile {
                organization_id: self.id,
                member_id: person.id,
                name: format!("Member {number}"),
                email: format!("member-{number}@{}.example", self.id),
            });
        }
        Ok(())
    }

    /// One of its members makes a token.
    ///
    /// # Errors
    /// Where a unit can't stage.
    pub async fn issue(&mut self, unit: &UnitOfWork) -> Result<Issued, UnitError> {
        let token_type = if self.draw.in_a_hundred(PERSONAL) {
            TokenType::Personal
        } else {
            TokenType::Service
        };
        let statements = match token_type {
            TokenType::Personal if self.draw.in_a_hundred(NARROWED) => narrowing(&mut self.draw),
            TokenType::Personal => Vec::new(),
            TokenType::Service => permission(&mut self.draw),
        };
        let secret = Secret::generate(token_type.secret_kind(), self.draw.bytes());
        let token_id = TokenId::from(self.draw.uuid());
        self.issued = self.issued.saturating_add(1);
        let name = TokenName::parse(&format!("token {:06} of somebody", self.issued)).map_err(staging)?;
        let name_key = name.key();
        let Some(creator) = self.draw.one_of(&self.members) else {
            return Err(staging("an organization has members"));
        };
        let is_permitted = may(&statements)
            || (token_type == TokenType::Personal && statements.is_empty() && may(&creator.statements));
        let created = Created {
            token_id,
            organization_id: self.id,
            creator_id: creator.id,
            membership_number: 1,
            name,
            token_type,
            statements,
            description: None,
            expires_at: None,
            allowed_ips: Vec::new(),
            digest: secret.digest(),
            hint: secret.hint(),
        };
        // As a command does: it rests on the creator's permission.
        unit.rest_on::<Member>(&Member::stream_id(self.id, creator.id), 1);
        unit.rest_on::<AccessToken>(&token_id.to_string(), 0);
        let command = AccessTokenCommand::Create(Box::new(created));
        taken(
            unit.execute::<AccessToken>(&token_id.to_string(), command)
                .await?,
        )?;
        unit.change_name(NameChange {
            reserve: true,
            organization_id: self.id,
            name_key,
            token_id,
            room: Some(Room {
                at_most: u32::MAX,
                counted: TokenCount { tokens: 0, as_of: 0 },
            }),
        });
        Ok(Issued {
            token_id,
            secret,
            token_type,
            is_permitted,
        })
    }
}

fn may(statements: &[Statement]) -> bool {
    Permission::from_statements(statements.to_vec())
        .decide(RESOURCE, ACTION)
        .is_allowed()
}

/// A service token's permission. As over HTTP each statement has an id of its own, so that no two tokens have equal ones.
fn permission(draw: &mut Draw) -> Vec<Statement> {
    let project = draw.one_of(&PROJECTS).copied().unwrap_or("*");
    let environment = draw.one_of(&ENVIRONMENTS).copied().unwrap_or("*");
    let flags = format!("project/{project}:env/{environment}:flag/*");
    match draw.below(10) {
        // As the page offers it: all of a type.
        0..=3 => vec![allow(draw, "flag", &["ToggleFlag"], &["project/*:env/*:flag/*"])],
        // A pipeline that rolls out.
        4..=6 => vec![
            allow(draw, "flag", &["ToggleFlag", "UpdateFlagTargetUsers"], &[&flags]),
            allow(
                draw,
                "env",
                &["CanAccessEnv"],
                &[&format!("project/{project}:env/*")],
            ),
        ],
        // One for flags of a team.
        7 => vec![
            allow(draw, "flag", &["*"], &[&format!("{flags};team-*,beta")]),
            deny(draw, "flag", &["DeleteFlag"], &["project/*:env/prod:flag/*"]),
        ],
        // What a developer may.
        _ => {
            let mut statements = built_in::developer();
            for statement in &mut statements {
                statement.id = Some(draw.uuid().to_string());
            }
            statements
        }
    }
}

fn narrowing(draw: &mut Draw) -> Vec<Statement> {
    let project = draw.one_of(&PROJECTS).copied().unwrap_or("*");
    vec![allow(
        draw,
        "flag",
        &["ToggleFlag"],
        &[&format!("project/{project}:env/*:flag/*")],
    )]
}

fn allow(draw: &mut Draw, resource_type: &str, actions: &[&str], resources: &[&str]) -> Statement {
    Statement {
        id: Some(draw.uuid().to_string()),
        resource_type: resource_type.to_owned(),
        effect: Effect::Allow,
        actions: actions.iter().copied().map(Action::new).collect(),
        resources: resources.iter().copied().map(ResourcePattern::new).collect(),
    }
}

fn deny(draw: &mut Draw, resource_type: &str, actions: &[&str], resources: &[&str]) -> Statement {
    Statement {
        effect: Effect::Deny,
        ..allow(draw, resource_type, actions, resources)
    }
}

fn taken<E: std::fmt::Display>(result: Result<(), E>) -> Result<(), UnitError> {
    result.map_err(staging)
}

fn staging(error: impl std::fmt::Display) -> UnitError {
    UnitError::Stage(error.to_string())
}
