//! Random lives of members and tokens: what is answered as of a position is what the domain makes of the events up to it,
//! what was answered when it was the head, and what was decided then.

mod lives;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cqrs_es::Aggregate;
use domain::access_token::{AccessToken, AccessTokenEvent, CreatorStanding};
use domain::authorization::{Credential, Question, Reason, decide_for_token};
use domain::ids::TokenId;
use domain::member::{Member, MemberEvent};
use domain::policy::{Decision, Effect, Entry, Permission, Revocation, Statement};
use featbit_tokens::authorization::Subject;
use futures_util::TryStreamExt;
use proptest::sample::Index;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::postgres::PgPoolCopyExt;

use lives::{Life, Step, life};
use model::Log;

use super::*;
use crate::support::TestDatabase;

const LIVES: u8 = 30;
const STEPS: usize = 16;
const QUESTIONS: [(&str, &str); 5] = [
    ("ToggleFlag", "project/web:env/prod:flag/dark"),
    ("ToggleFlag", "project/web:env/dev:flag/dark"),
    ("DeleteFlag", "project/web:env/prod:flag/dark"),
    ("ManagePersonalAccessTokens", "access-token/*"),
    ("CanManageIAM", "iam/*"),
];

/// What was answered and decided while a position was the head.
struct Live {
    answer: Value,
    decisions: Vec<Reason>,
}

/// A life being lived, in an organization of its own.
struct Living<'a> {
    app: &'a TestApp,
    organization_id: OrganizationId,
    members: [Actor; 2],
    auditor: Actor,
    version: i64,
    is_versioned: bool,
    tokens: Vec<(String, usize)>,
    recorded: BTreeMap<(String, i64), Live>,
}

/// Tried: a place's first position for its last; not forgetting an end when the creator is added again; the organization's
/// stream left out; statements in spite of an end; every revocation with every statement; streams read to their end, and to
/// before the position.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_of_a_position_is_the_answer_that_was_given_there() {
    let app = TestApp::start().await;
    let (mut looked_at, mut reasons) = (0, BTreeSet::new());
    for seed in 0..LIVES {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let life = life().new_tree(&mut runner).unwrap().current();
        let mut living = Living::begin(&app, &life).await;
        for (nth, step) in life.steps.iter().enumerate() {
            living.take(nth, step).await;
            living.record().await;
        }
        looked_at += living.look_back(seed, &life.looks, &mut reasons).await;
    }
    // Not too poor a life: everything that can be the matter was.
    let all = [
        "null",
        "token_removed",
        "token_expired",
        "member_blocked",
        "creator_not_a_member",
        "token_inactive",
    ];
    assert_eq!(reasons, all.map(str::to_owned).into(), "in {looked_at} looks");
    assert!(looked_at > 500, "{looked_at} looks");
}

/// A node of its own, on a database that holds the log up to that position and no further. Tried: with the log up to the
/// position before.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_of_a_position_is_what_a_fresh_instance_that_has_read_so_far_decides() {
    const LIVES: u8 = 4;
    const LOOKS: usize = 3;
    let app = TestApp::start().await;
    for seed in 100..100 + LIVES {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let life = life().new_tree(&mut runner).unwrap().current();
        let mut living = Living::begin(&app, &life).await;
        for (nth, step) in life.steps.iter().enumerate() {
            living.take(nth, step).await;
        }
        let log = Log::of(&app, living.organization_id).await;
        let (id, _) = &living.tokens[usize::from(seed) % living.tokens.len()];
        let all: Vec<i64> = (log.created(id)..=log.head).collect();
        let looks: BTreeSet<i64> = life
            .looks
            .iter()
            .map(|look| *look.get(&all))
            .take(LOOKS)
            .collect();
        for position in looks {
            let answer = as_of(&living.auditor, id, position).await;
            let fresh = TestApp::start_with(Options {
                settings: vec![("MAX_STALENESS_MS", "30000".to_owned())],
                database: Some(log_until(&app, position).await),
            })
            .await;
            let decided = eventually("it has its first lease", async || {
                let decided = decisions(&fresh, id.parse().unwrap(), position);
                (!decided.contains(&Reason::StaleReplica)).then_some(decided)
            })
            .await;
            assert_eq!(
                decided,
                decided_by(&answer),
                "life {seed}, token {id}, position {position}: {answer:#}"
            );
            fresh.stop().await;
        }
    }
}

/// The log up to a position, in a database of its own.
async fn log_until(app: &TestApp, position: i64) -> TestDatabase {
    let database = TestDatabase::new().await;
    let wanted =
        format!("copy (select * from events where position <= {position} order by position) to stdout");
    let mut rows = app.database.pool.copy_out_raw(&wanted).await.unwrap();
    let mut copied = database.pool.copy_in_raw("copy events from stdin").await.unwrap();
    while let Some(chunk) = rows.try_next().await.unwrap() {
        copied.send(chunk).await.unwrap();
    }
    copied.finish().await.unwrap();
    database
}

impl<'a> Living<'a> {
    async fn begin(app: &'a TestApp, life: &Life) -> Self {
        let organization_id = OrganizationId::from(Uuid::new_v4());
        let member = || app.member(organization_id, Uuid::new_v4().into());
        let mut living = Self {
            app,
            organization_id,
            members: [member(), member()],
            auditor: member(),
            version: 100,
            is_versioned: life.is_versioned,
            tokens: Vec::new(),
            recorded: BTreeMap::new(),
        };
        living.add_auditor().await;
        for who in 0..2 {
            let statements = json!([
                { "id": "a", "resourceType": "flag", "effect": "allow", "actions": ["*"], "resources": [FLAGS] },
                { "id": "manage", "resourceType": "access-token", "effect": "allow", "actions": ["*"],
                  "resources": ["access-token/*"] },
            ]);
            let data = json!({ "name": "Mia", "email": "mia@tests.example", "statements": statements });
            living.tell(who, "MemberAdded", &data, 0).await;
        }
        let service = json!([allow("ToggleFlag", FLAG)]);
        for (who, token_type, permissions) in [(0, "Personal", json!([])), (1, "Service", service)] {
            let body = json!({ "type": token_type, "permissions": permissions });
            living.take(STEPS + who, &Step::Create { who, body }).await;
        }
        living
    }

    async fn add_auditor(&self) {
        let all = json!([{ "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] }]);
        let data = json!({ "name": "Ava Auditor", "email": "ava@tests.example", "statements": all });
        let added = cloud_event("MemberAdded", self.organization_id, self.auditor.member_id, data);
        self.app.tell(&[added]).await;
    }

    async fn tell(&mut self, who: usize, kind: &str, data: &Value, late_by: i64) {
        let mut data = data.clone();
        if self.is_versioned {
            self.version += 10;
            data["version"] = json!(self.version - late_by);
        }
        let event = cloud_event(kind, self.organization_id, self.members[who].member_id, data);
        self.app.tell(&[event]).await;
    }

    /// Whoever may not do it, or can't, is refused, and that is a step too.
    async fn take(&mut self, nth: usize, step: &Step) {
        match step {
            Step::Member {
                who,
                kind,
                data,
                late_by,
            } => self.tell(*who, kind, data, *late_by).await,
            Step::OrganizationRemoved => {
                let nobody = Uuid::nil().into();
                let mut removed = cloud_event("OrganizationRemoved", self.organization_id, nobody, json!({}));
                removed["data"].as_object_mut().unwrap().remove("memberId");
                self.app.tell(&[removed]).await;
                self.add_auditor().await;
            }
            Step::Create { who, body } => {
                if self.tokens.len() < 4 {
                    let mut body = body.clone();
                    body["name"] = json!(format!("token {nth}"));
                    let answer = self.members[*who].post("/access-tokens", body).await;
                    assert!([200, 403].contains(&answer.status), "{}", answer.text);
                    if let Some(id) = answer.body["data"]["id"].as_str() {
                        self.tokens.push((id.to_owned(), *who));
                    }
                }
            }
            Step::Token { who, which, action } => {
                if let Some((id, _)) = self.tokens.get(*which) {
                    let actor = &self.members[*who];
                    let answer = match *action {
                        "delete" => actor.delete(&at(id)).await,
                        action => actor.put(&format!("{}/{action}", at(id)), json!({})).await,
                    };
                    assert!(answer.status < 500, "{}", answer.text);
                }
            }
            Step::Expire { which } => {
                if let Some((id, who)) = self.tokens.get(*which) {
                    // Its time may be set by its creator only; who can't leaves it as it is.
                    let creator = &self.members[*who];
                    if creator
                        .put(&at(id), json!({ "name": format!("expiring {nth}") }))
                        .await
                        .status
                        == 200
                    {
                        self.app.expire(creator, id).await;
                    }
                }
            }
        }
    }

    /// Asks for the present, until nothing happens between the answer, the decisions and a look at the head.
    async fn record(&mut self) {
        for (id, _) in &self.tokens {
            let (position, live) = eventually("a moment without events", async || {
                let answer = permissions(&self.auditor, id, "").await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                let position = answer.body["data"]["position"].as_i64().unwrap();
                assert!(self.app.app.index.reached(position, Duration::from_secs(5)).await);
                let decisions = decisions(self.app, id.parse().unwrap(), position);
                let is_settled =
                    head(self.app).await == position && !decisions.contains(&Reason::StaleReplica);
                let answer = answer.body["data"].clone();
                is_settled.then_some((position, Live { answer, decisions }))
            })
            .await;
            self.recorded.insert((id.clone(), position), live);
        }
    }

    /// Compares; answers how often.
    async fn look_back(&self, seed: u8, looks: &[Index], reasons: &mut BTreeSet<String>) -> usize {
        let log = Log::of(self.app, self.organization_id).await;
        let mut looked_at = 0;
        for (id, _) in &self.tokens {
            let created = log.created(id);
            let all: Vec<i64> = (created..=log.head).collect();
            let positions: BTreeSet<i64> = looks
                .iter()
                .map(|look| *look.get(&all))
                .chain(
                    self.recorded
                        .keys()
                        .filter(|(of, _)| of == id)
                        .map(|(_, position)| *position),
                )
                .collect();
            for position in positions {
                let context = format!("life {seed}, token {id}, position {position}");
                let answer = as_of(&self.auditor, id, position).await;
                log.expect(&answer, id, position, &context);
                if let Some(live) = self.recorded.get(&(id.clone(), position)) {
                    let without_time = |answer: &Value| {
                        let mut answer = answer.clone();
                        answer.as_object_mut().unwrap().remove("time");
                        answer
                    };
                    assert_eq!(without_time(&answer), without_time(&live.answer), "{context}");
                    assert_eq!(decided_by(&answer), live.decisions, "{context}: {answer:#}");
                    let then = decided_then(self.app, id, position).await;
                    assert_eq!(then, live.decisions, "{context}");
                }
                if log.is_last_at_its_time(position) {
                    let query = format!("?at={}", answer["time"].as_str().unwrap());
                    let by_time = permissions(&self.auditor, id, &query).await;
                    assert_eq!(by_time.body["data"], answer, "{context}");
                }
                reasons.insert(answer["reason"].as_str().unwrap_or("null").to_owned());
                looked_at += 1;
            }
            if created > 1 {
                let before = permissions(&self.auditor, id, &format!("?at={}", created - 1)).await;
                assert_eq!(before.status, 404);
            }
        }
        looked_at
    }
}

fn question((action, resource): (&'static str, &'static str), now: DateTime<Utc>) -> Question<'static> {
    Question {
        action,
        resource,
        organization_id: None,
        address: None,
        now,
    }
}

/// What the node decides, live.
fn decisions(app: &TestApp, id: TokenId, position: i64) -> Vec<Reason> {
    let decide = |asked| {
        let question = question(asked, Utc::now());
        app.app
            .index
            .decide(&Subject::Token(id), &question, position, |_, answer| {
                answer.reason
            })
    };
    QUESTIONS.into_iter().map(decide).collect()
}

/// What AuthZEN is answered of the past.
async fn decided_then(app: &TestApp, id: &str, position: i64) -> Vec<Reason> {
    let asked = QUESTIONS
        .map(|(action, resource)| json!({ "action": { "name": action }, "resource": { "type": "", "id": resource } }));
    let questions = json!({ "subject": { "type": "access_token", "id": id }, "context": { "atPosition": position },
                            "evaluations": asked });
    let request = app.request(Method::POST, "/access/v1/evaluations");
    let answer = Answer::of(request.json(&questions)).await;
    let answered = answer.body["evaluations"].as_array().unwrap();
    let reason = |answered: &Value| serde_json::from_value(answered["context"]["reason"].clone()).unwrap();
    answered.iter().map(reason).collect()
}

/// What a reader of the answer would decide: statement by statement, without those parts that were revoked.
fn decided_by(answer: &Value) -> Vec<Reason> {
    if answer["usable"] == false {
        let reason: Reason = serde_json::from_value(answer["reason"].clone()).unwrap();
        return vec![reason; QUESTIONS.len()];
    }
    let decide = |(action, resource): (&str, &str)| {
        let matched = answer["statements"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|shown| {
                let statement: Statement = serde_json::from_value(shown.clone()).unwrap();
                let revoked = shown["revoked"].as_array().cloned().unwrap_or_default();
                let is_taken = revoked.into_iter().any(|revoked| {
                    let revocation: Revocation = serde_json::from_value(revoked).unwrap();
                    revocation.takes(resource, action)
                });
                (statement.matches(resource, action) && !is_taken).then_some(statement.effect)
            });
        let effects: Vec<Effect> = matched.collect();
        if effects.contains(&Effect::Deny) {
            Reason::DeniedByStatement
        } else if effects.is_empty() {
            Reason::NoMatchingStatement
        } else if is_in_scope(&answer["scope"], resource, action) {
            Reason::Allowed
        } else {
            Reason::OutsideTokenScope
        }
    };
    QUESTIONS.into_iter().map(decide).collect()
}

fn is_in_scope(scope: &Value, resource: &str, action: &str) -> bool {
    match scope {
        Value::Null => true,
        scope => {
            let statements: Vec<Statement> = serde_json::from_value(scope.clone()).unwrap();
            let decision = Permission::from_statements(statements);
            matches!(decision.decide(resource, action), Decision::Allowed(_))
        }
    }
}
