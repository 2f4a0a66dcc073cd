//! Holds what the service has made of a story against the model: every member's state, every message exactly once in the log or
//! parked, and, over HTTP, that no personal token is allowed what the model denies.

use std::collections::HashMap;
use std::error::Error;

use domain::ids::{MemberId, OrganizationId};
use domain::member::Member;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::model::{Heard, heard, questions};
use super::story::{Said, Story};

/// A story and those who have taken it.
#[derive(clap::Args, Clone, Debug)]
pub struct Check {
    /// What was sent.
    #[command(flatten)]
    pub story: Story,
    /// The database
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: String,
    /// Nodes that are asked about tokens
    #[arg(long)]
    pub url: Vec<String>,
    /// Secrets of personal tokens, one a line: the member's number in the story, the secret
    #[arg(long)]
    pub tokens: Option<std::path::PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Messages of the story.
    pub messages: usize,
    /// Members of the story.
    pub members: usize,
    /// Questions that were asked about tokens.
    pub asked: usize,
    /// Where the service and the model differ; none: nowhere.
    pub differences: Vec<String>,
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn note(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.0.push(what());
        }
    }
}

impl Check {
    /// Of everything that a story tells, once it has been taken and the read models have caught up.
    ///
    /// # Errors
    /// Where the database or a node does not answer.
    pub async fn run(&self) -> Result<Checked, Box<dyn Error>> {
        let pool = PgPool::connect(&self.database_url).await?;
        let mut said = self.story.beginning();
        said.extend(self.story.rest());
        let heard = heard(&self.story, &said);
        let mut differences = Differences::default();
        self.members(&pool, &heard, &mut differences).await?;
        self.log(&pool, &said, &heard, &mut differences).await?;
        let asked = self.tokens(&heard, &mut differences).await?;
        Ok(Checked {
            messages: said.len(),
            members: heard.len(),
            asked,
            differences: differences.0,
        })
    }

    /// Whoever is blocked is so; of the others every question is answered alike.
    async fn members(
        &self,
        pool: &PgPool,
        heard: &[Heard],
        differences: &mut Differences,
    ) -> Result<(), Box<dyn Error>> {
        let rows: Vec<(Uuid, Uuid, Json<Member>)> =
            sqlx::query_as("select organization_id, member_id, state from members")
                .fetch_all(pool)
                .await?;
        let states: HashMap<(Uuid, Uuid), Member> = rows
            .into_iter()
            .map(|(organization, member, Json(state))| ((organization, member), state))
            .collect();
        for (member, model) in heard.iter().enumerate() {
            let key = (self.story.organization(member), self.story.member(member));
            let Some(state) = states.get(&key) else {
                differences.note(false, || format!("member {member} is not known"));
                continue;
            };
            differences.note(state.is_blocked() == model.is_blocked, || {
                format!("member {member}: blocked is {}", state.is_blocked())
            });
            differences.note(state.is_member() == model.is_member(), || {
                format!("member {member}: is a member is {}", state.is_member())
            });
            let permission = state.permission();
            for (action, resource) in questions() {
                let is_allowed = permission.decide(resource, action).is_allowed();
                differences.note(is_allowed == model.allows(action, resource), || {
                    format!("member {member}: {action} on {resource} is {is_allowed}")
                });
            }
        }
        Ok(())
    }

    /// Nothing is lost and nothing doubled: each event has its key in the inbox, each piece of garbage is parked once, and of
    /// events without versions each stands in the log.
    async fn log(
        &self,
        pool: &PgPool,
        said: &[Said],
        heard: &[Heard],
        differences: &mut Differences,
    ) -> Result<(), Box<dyn Error>> {
        let mut events: Vec<(usize, u64)> = said
            .iter()
            .filter_map(|one| match *one {
                Said::Event { member, nth } => Some((member, nth)),
                Said::Garbage { .. } => None,
            })
            .collect();
        events.sort_unstable();
        events.dedup();
        let keys: i64 = sqlx::query_scalar("select count(*) from inbox where source = '/bench'")
            .fetch_one(pool)
            .await?;
        differences.note(usize::try_from(keys).ok() == Some(events.len()), || {
            format!("{keys} keys, of {} events", events.len())
        });
        let garbage = said
            .iter()
            .filter(|one| matches!(one, Said::Garbage { .. }))
            .count();
        let parked: i64 =
            sqlx::query_scalar("select count(*) from parked_messages where reason = 'payload_is_not_json'")
                .fetch_one(pool)
                .await?;
        differences.note(usize::try_from(parked).ok() == Some(garbage), || {
            format!("{parked} pieces of garbage parked, of {garbage}")
        });
        let streams: Vec<(String, i64)> = sqlx::query_as(
            "select aggregate_id, count(*) from events
             where aggregate_type = 'member' and event_type not in ('member.blocked') group by aggregate_id",
        )
        .fetch_all(pool)
        .await?;
        let streams: HashMap<String, i64> = streams.into_iter().collect();
        for (member, model) in heard
            .iter()
            .enumerate()
            .filter(|(member, _)| !Story::has_versions(*member))
        {
            let organization: OrganizationId = self.story.organization(member).into();
            let id: MemberId = self.story.member(member).into();
            let stands = streams.get(&Member::stream_id(organization, id)).copied();
            differences.note(stands == i64::try_from(model.count()).ok(), || {
                format!(
                    "member {member}: {stands:?} events in the log, of {}",
                    model.count()
                )
            });
        }
        let (positions, last): (i64, i64) =
            sqlx::query_as("select count(*), coalesce(max(position), 0) from events")
                .fetch_one(pool)
                .await?;
        differences.note(positions == last, || {
            format!("{positions} events, the last at {last}")
        });
        Ok(())
    }

    /// A personal token may be denied more than its creator (who may have left and come back), never less.
    async fn tokens(&self, heard: &[Heard], differences: &mut Differences) -> Result<usize, Box<dyn Error>> {
        let Some(path) = &self.tokens else { return Ok(0) };
        let text = std::fs::read_to_string(path)?;
        let client = reqwest::Client::new();
        let mut asked: usize = 0;
        for url in &self.url {
            for (member, secret) in text.lines().filter_map(|line| line.split_once(' ')) {
                let member: usize = member.parse()?;
                let Some(model) = heard.get(member) else { continue };
                for (action, resource) in questions() {
                    let question = json!({
                        "subject": { "type": "access_token", "id": secret }, "action": { "name": action },
                        "resource": { "type": "flag", "id": resource },
                    });
                    let answer: Value = client
                        .post(format!("{url}/access/v1/evaluation"))
                        .json(&question)
                        .send()
                        .await?
                        .json()
                        .await?;
                    asked = asked.saturating_add(1);
                    let is_allowed = answer.get("decision") == Some(&Value::Bool(true));
                    let may = !model.is_blocked && model.allows(action, resource);
                    differences.note(!is_allowed || may, || {
                        format!("a token of member {member} is allowed {action} on {resource}")
                    });
                }
            }
        }
        Ok(asked)
    }
}
