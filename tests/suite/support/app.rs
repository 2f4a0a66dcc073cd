//! The service in this process, and its users as actors: `app.owner().post(…)`.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::access_token::Update;
use domain::ids::{MemberId, OrganizationId};
use domain::policy::{Statement, built_in};
use featbit_tokens::app::App;
use featbit_tokens::commands::Caller;
use featbit_tokens::commands::membership::{Poll, RawMessage, Taken};
use featbit_tokens::config::{Config, Environment};
use featbit_tokens::intake::member_events::understand;
use featbit_tokens::log::Appender;
use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::TestDatabase;

/// Signs the test's JWTs.
pub const JWT_KEY: &str = "a key that only the tests know, 32 bytes and more";

/// Opens the intake over HTTP.
pub const INTAKE_KEY: &str = "a key that only the tests send events with";

/// How a test's node differs from an ordinary one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Environment variables on top of the usual ones.
    pub settings: Vec<(&'static str, String)>,
    /// Another node's database.
    pub database: Option<TestDatabase>,
}

/// A node on a database, with an organization of an owner, an administrator, a developer, a member without permission,
/// and a stranger in another organization.
pub struct TestApp {
    pub app: App,
    pub database: TestDatabase,
    pub url: String,
    pub organization_id: OrganizationId,
    client: reqwest::Client,
    people: People,
}

#[derive(Clone, Copy)]
struct People {
    owner: MemberId,
    administrator: MemberId,
    developer: MemberId,
    nobody: MemberId,
    stranger: MemberId,
    other_organization: OrganizationId,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        let database = match options.database {
            Some(database) => database,
            None => TestDatabase::new().await,
        };
        let mut environment = Environment::of_process().with([
            ("DATABASE_URL", database.url.clone()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("JWT_KEY", JWT_KEY.to_owned()),
            ("INTAKE_KEYS", INTAKE_KEY.to_owned()),
            // A busy machine may let a node stand still for a second; a test of that says so itself.
            ("MAX_STALENESS_MS", "10000".to_owned()),
        ]);
        for (name, value) in options.settings {
            environment = environment.with([(name, value)]);
        }
        let config = Config::from_environment(&environment).expect("the test's configuration");
        let app = App::start(config).await.expect("the node starts");
        let url = format!("http://{}", app.address);
        let id = || MemberId::from(Uuid::new_v4());
        let people = People {
            owner: id(),
            administrator: id(),
            developer: id(),
            nobody: id(),
            stranger: id(),
            other_organization: Uuid::new_v4().into(),
        };
        let test = Self {
            app,
            database,
            url,
            organization_id: Uuid::new_v4().into(),
            client: reqwest::Client::new(),
            people,
        };
        test.populate().await;
        test
    }

    async fn populate(&self) {
        let (here, there) = (self.organization_id, self.people.other_organization);
        self.tell(&[
            added(here, self.people.owner, "Olga Owner", &built_in::owner()),
            added(
                here,
                self.people.administrator,
                "Adam Administrator",
                &built_in::administrator(),
            ),
            added(
                here,
                self.people.developer,
                "Dana Developer",
                &built_in::developer(),
            ),
            added(here, self.people.nobody, "Nora Nobody", &[]),
            added(there, self.people.stranger, "Sid Stranger", &built_in::owner()),
        ])
        .await;
    }

    /// Hands membership events in, as the topic would, and waits until decisions hold them.
    pub async fn tell(&self, events: &[Value]) -> Taken {
        let taken = self.app.commands.take_poll(&poll(events)).await;
        let taken = taken.expect("the events are taken");
        self.catch_up().await;
        taken
    }

    /// Waits until decisions hold everything that is in the log.
    pub async fn catch_up(&self) {
        let head: i64 = sqlx::query_scalar("select coalesce(max(position), 0) from events")
            .fetch_one(&self.database.pool)
            .await
            .expect("the head");
        assert!(
            self.app.index.reached(head, Duration::from_secs(60)).await,
            "the index reaches {head}"
        );
        // A node that has just started has the events before its first lease.
        eventually("the node decides", async || {
            self.app.index.fence().is_open().then_some(())
        })
        .await;
    }

    pub fn owner(&self) -> Actor {
        self.member(self.organization_id, self.people.owner)
    }

    pub fn administrator(&self) -> Actor {
        self.member(self.organization_id, self.people.administrator)
    }

    pub fn developer(&self) -> Actor {
        self.member(self.organization_id, self.people.developer)
    }

    /// A member without any permission.
    pub fn nobody(&self) -> Actor {
        self.member(self.organization_id, self.people.nobody)
    }

    /// The owner of another organization.
    pub fn stranger(&self) -> Actor {
        self.member(self.people.other_organization, self.people.stranger)
    }

    /// The same in this organization, of which it is no member.
    pub fn intruder(&self) -> Actor {
        self.member(self.organization_id, self.people.stranger)
    }

    pub fn member(&self, organization_id: OrganizationId, member_id: MemberId) -> Actor {
        let expires = Utc::now() + TimeDelta::minutes(5);
        self.with_authorization(
            organization_id,
            member_id,
            &format!("Bearer {}", jwt(member_id, expires)),
        )
    }

    /// Somebody who presents just this.
    pub fn with_authorization(
        &self,
        organization_id: OrganizationId,
        member_id: MemberId,
        authorization: &str,
    ) -> Actor {
        Actor {
            client: self.client.clone(),
            url: self.url.clone(),
            organization_id,
            member_id,
            authorization: Some(authorization.to_owned()),
        }
    }

    /// May this token (secret or id) do this on that?
    pub async fn ask(&self, token: &str, action: &str, resource: &str) -> Value {
        self.evaluate(json!({
            "subject": { "type": "access_token", "id": token },
            "action": { "name": action },
            "resource": { "type": "flag", "id": resource },
        }))
        .await
        .body
    }

    pub async fn evaluate(&self, question: Value) -> Answer {
        let request = self
            .client
            .post(format!("{}/access/v1/evaluation", self.url))
            .json(&question);
        Answer::of(request).await
    }

    /// Asks of which token this form holds the secret.
    pub fn introspect(&self, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        self.request(Method::POST, "/oauth2/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    }

    /// A request of the test's own making.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Lets a token's time pass: nobody can ask for a time that has passed, so this goes past the door.
    pub async fn expire(&self, creator: &Actor, id: &str) {
        let caller = Caller {
            organization_id: creator.organization_id,
            member_id: creator.member_id,
            request_id: "test".to_owned(),
            known: None,
        };
        let update = Update {
            expires_at: Some(Some(Utc::now() - TimeDelta::minutes(1))),
            ..Update::default()
        };
        self.app
            .commands
            .update_token(&caller, id.parse().unwrap(), update)
            .await
            .unwrap();
        self.catch_up().await;
    }

    pub async fn stop(self) {
        self.app.stop().await;
    }
}

/// Somebody who uses the management API.
#[derive(Clone, Debug)]
pub struct Actor {
    client: reqwest::Client,
    url: String,
    pub organization_id: OrganizationId,
    pub member_id: MemberId,
    authorization: Option<String>,
}

/// What the service answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// Null where the body is no JSON.
    pub body: Value,
}

impl Actor {
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .client
            .request(method, format!("{}/api/v1{path}", self.url))
            .header("organization", self.organization_id.to_string());
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    /// The same request to another node.
    pub fn at(&self, port: u16, method: Method, path: &str) -> reqwest::RequestBuilder {
        Self {
            url: format!("http://127.0.0.1:{port}"),
            ..self.clone()
        }
        .request(method, path)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// A personal token of this actor: its id and its secret.
    pub async fn personal_token(&self, name: &str) -> (String, String) {
        self.token(json!({ "name": name, "type": "Personal" })).await
    }

    /// A service token with one statement.
    pub async fn service_token(&self, name: &str, action: &str, resource: &str) -> (String, String) {
        let statement = json!({ "resourceType": "flag", "effect": "allow", "actions": [action], "resources": [resource] });
        self.token(json!({ "name": name, "type": "Service", "permissions": [statement] }))
            .await
    }

    pub async fn token(&self, body: Value) -> (String, String) {
        let answer = self.post("/access-tokens", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let data = &answer.body["data"];
        (
            data["id"].as_str().unwrap().to_owned(),
            data["token"].as_str().unwrap().to_owned(),
        )
    }
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the service answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self {
            status,
            headers,
            text,
            body,
        }
    }

    /// The first code of the envelope.
    pub fn code(&self) -> &str {
        self.body["errors"][0].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// A JWT as FeatBit would sign it.
pub fn jwt(member_id: MemberId, expires: DateTime<Utc>) -> String {
    let claims =
        json!({ "id": member_id, "iss": "featbit", "aud": "featbit-api", "exp": expires.timestamp() });
    encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(JWT_KEY.as_bytes()),
    )
    .expect("a JWT")
}

/// A membership event with an id of its own.
pub fn cloud_event(kind: &str, organization_id: OrganizationId, member_id: MemberId, data: Value) -> Value {
    let mut all = json!({ "organizationId": organization_id, "memberId": member_id });
    for (name, value) in data.as_object().expect("an object") {
        all[name] = value.clone();
    }
    json!({
        "specversion": "1.0",
        "id": Uuid::new_v4(),
        "source": "/tests",
        "type": format!("featbit.membership.{kind}"),
        "data": all,
    })
}

/// An appender that runs for as long as its guard is kept.
pub fn running_appender(pool: &PgPool) -> (Appender, DropGuard) {
    let (appender, task) = Appender::new(pool.clone());
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    (appender, stop.drop_guard())
}

/// Membership events as the topic would hand them in.
pub fn poll(events: &[Value]) -> Poll {
    let message = |event: &Value| {
        let id = |name: &str| event["data"][name].as_str().unwrap_or_default();
        let key = format!("{}:{}", id("organizationId"), id("memberId"));
        understand(RawMessage {
            key: Some(key.into_bytes()),
            payload: Some(event.to_string().into_bytes()),
            ..RawMessage::default()
        })
    };
    Poll {
        messages: events.iter().map(message).collect(),
        offset: None,
    }
}

fn added(
    organization_id: OrganizationId,
    member_id: MemberId,
    name: &str,
    statements: &[Statement],
) -> Value {
    let email = format!("{}@tests.example", name.to_lowercase().replace(' ', "."));
    cloud_event(
        "MemberAdded",
        organization_id,
        member_id,
        json!({ "name": name, "email": email, "statements": statements }),
    )
}

/// Asks again until it holds, for things another task does; fails after a minute.
pub async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{what}: not within a minute"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
