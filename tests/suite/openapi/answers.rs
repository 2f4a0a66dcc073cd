//! Every answer of the document is given by a running service: for each operation and status there is a request here, and
//! its answer has the documented media type, headers and body; all documented codes come up.
//!
//! A new operation costs a line for each status of its own in [`requests`]; what many share is in [`shared`].

use std::collections::BTreeSet;

use sqlx::Executor;
use uuid::Uuid;

use super::*;
use crate::support::{Actor, Answer, INTAKE_KEY, Options, TestApp, cloud_event, eventually};

const KIB: usize = 1024;
const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
/// An address that is not loopback.
const ELSEWHERE: &str = "203.0.113.9";
/// An idempotency key of `app`'s owner that was used, with [`used_body`].
const USED: &str = "used";
/// Nothing to hold a body against.
const NO_BODY: Value = Value::Bool(true);
const CONFIGURATION: &str = "/.well-known/authzen-configuration";

/// Nodes in the states that the answers need.
struct World {
    app: TestApp,
    /// It wants gateway keys, does not say where it is, has room for one token in an organization, which is there, and has seen too many failures from
    /// the address [`ELSEWHERE`].
    strict: TestApp,
    /// Each append of it comes to a conflict.
    conflicted: TestApp,
    /// It reads a topic, of a broker that is not there.
    reading: TestApp,
    /// It takes no membership events over HTTP.
    closed: TestApp,
    /// It has lost sight of its log.
    frozen: TestApp,
    /// Active tokens of `app`'s owner, and one whose time has passed.
    personal: String,
    service: String,
    /// Of another one, with the same statement.
    passing: String,
    expired: String,
    /// Messages that are parked.
    parked: String,
    parked_too: String,
    /// Of `conflicted`'s owner.
    active_there: String,
    inactive_there: String,
    /// A message that is parked there.
    parked_there: String,
}

impl World {
    async fn new() -> Self {
        let app = TestApp::start().await;
        let owner = app.owner();
        let (personal, _) = owner.personal_token("personal").await;
        let (service, _) = owner
            .service_token("service", "ToggleFlag", "project/web:env/prod:flag/*")
            .await;
        for path in [
            "/access-tokens".to_owned(),
            format!("/access-tokens/{personal}/rotate"),
        ] {
            let used = owner
                .request(Method::POST, &path)
                .header("idempotency-key", USED)
                .json(&used_body());
            assert_eq!(Answer::of(used).await.status, 200);
        }
        let (_, passing) = owner
            .service_token("passing", "ToggleFlag", "project/web:env/prod:flag/*")
            .await;
        let (expired, _) = owner.personal_token("expired").await;
        app.expire(&owner, &expired).await;

        let settings = vec![
            ("GATEWAY_KEYS", "a key".to_owned()),
            ("HTTP_ADDR", "0.0.0.0:0".to_owned()),
            ("MAX_TOKENS_PER_ORGANIZATION", "1".to_owned()),
            ("TRUSTED_PROXY_HOPS", "1".to_owned()),
        ];
        let strict = TestApp::start_with(Options {
            settings,
            database: None,
        })
        .await;
        strict.owner().personal_token("the only one").await;
        for _ in 0..100 {
            let failure = Answer::of(from_elsewhere(
                strict.request(Method::GET, "/api/v1/access-tokens"),
            ))
            .await;
            assert_eq!(failure.status, 401);
        }

        let conflicted = TestApp::start().await;
        let there = conflicted.owner();
        let (active_there, _) = there.personal_token("active").await;
        let (inactive_there, _) = there.personal_token("inactive").await;
        let stopped = format!("/access-tokens/{inactive_there}/deactivate");
        assert_eq!(there.put(&stopped, json!({})).await.status, 200);
        let parked_there = parked(&conflicted).await;
        always_in_conflict(&conflicted).await;

        let reading = TestApp::start_with(Options {
            settings: vec![("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1".to_owned())],
            database: None,
        })
        .await;
        let closed = TestApp::start_with(Options {
            settings: vec![("INTAKE_KEYS", String::new())],
            database: None,
        })
        .await;
        let frozen = TestApp::start().await;
        always_starting_up(&frozen).await;
        let lost = "alter table events rename to out_of_sight";
        frozen.database.pool.execute(lost).await.unwrap();
        eventually("the node is not ready", async || {
            let answer = Answer::of(frozen.request(Method::GET, "/health/readiness")).await;
            (answer.status == 503).then_some(())
        })
        .await;
        Self {
            strict,
            conflicted,
            reading,
            closed,
            frozen,
            personal,
            service,
            passing,
            expired,
            parked: parked(&app).await,
            parked_too: parked(&app).await,
            app,
            active_there,
            inactive_there,
            parked_there,
        }
    }
}

fn from_elsewhere(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header("x-forwarded-for", ELSEWHERE)
}

/// Of a creation; a rotation takes it for an empty one.
fn used_body() -> Value {
    json!({ "name": "keyed", "type": "Personal" })
}

/// A message about a member of the owner's organization, which can't be used.
async fn parked(app: &TestApp) -> String {
    let unknown = cloud_event("Renamed", app.organization_id, Uuid::new_v4().into(), json!({}));
    app.tell(&[unknown]).await;
    let id: Uuid = sqlx::query_scalar("select id from parked_messages order by nth desc limit 1")
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    id.to_string()
}

/// Somebody else was first, however often it is tried.
async fn always_in_conflict(app: &TestApp) {
    let conflict = "return query select r, 'conflict'::text, null::bigint, null::bigint, null::timestamptz, null::bytea, null::bytea
                    from generate_subscripts(command_ids, 1) r;";
    append_by(app, conflict).await;
}

/// A server that says so is asked again for some seconds.
async fn always_starting_up(app: &TestApp) {
    append_by(
        app,
        "raise exception 'starting up' using errcode = 'cannot_connect_now';",
    )
    .await;
}

async fn append_by(app: &TestApp, statements: &str) {
    let replaced = format!(
        "do $replace$ begin execute format(
            'create or replace function append_to_log(%s) returns %s language plpgsql as $$ begin %s end $$',
            pg_get_function_arguments('append_to_log'::regproc), pg_get_function_result('append_to_log'::regproc),
            $statements${statements}$statements$);
         end $replace$"
    );
    app.database.pool.execute(replaced.as_str()).await.unwrap();
}

/// Tried: a status, a code, a header and a required field added to the document; `evaluate`'s 401 taken out of here.
#[tokio::test(flavor = "multi_thread")]
async fn every_documented_answer_is_given() {
    let (document, world) = (document(), World::new().await);
    let mut wrong = Vec::new();
    for operation in operations(&document) {
        for (status, documented) in &operation.answers {
            let what = format!("{} {status}", operation.id);
            let requests =
                shared(&world, &operation, *status).or_else(|| requests(&world, &operation.id, *status));
            let Some(requests) = requests else {
                wrong.push(format!("{what}: no request here gets this answer"));
                continue;
            };
            let mut codes = BTreeSet::new();
            for request in requests {
                let answer = Answer::of(request).await;
                if let Err(why) = holds(&document, *status, documented, &answer) {
                    wrong.push(format!("{what}: {why}: {} {}", answer.status, answer.text));
                }
                let all = answer.body["errors"].as_array();
                codes.extend(all.into_iter().flatten().map(ToString::to_string));
            }
            let expected = documented_codes(documented);
            if codes != expected {
                wrong.push(format!(
                    "{what}: documented are {expected:?}, answered were {codes:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is answered alike by many operations.
fn shared(world: &World, operation: &Operation, status: u16) -> Option<Vec<reqwest::RequestBuilder>> {
    let World { app, conflicted, .. } = world;
    let ask =
        |actor: &Actor, id: &str| actor.request(operation.method.clone(), below_base(&operation.path_of(id)));
    let request = match status {
        401 if operation.is_of_members => operation.request(app, &world.personal),
        403 if operation.is_of_members => ask(&app.intruder(), &world.personal),
        404 if operation.is_of_members => {
            // Who removes a token that is not there is told that it is gone; only what is no id is not found.
            let id = match operation.method {
                Method::DELETE => "no-uuid".to_owned(),
                _ => Uuid::new_v4().to_string(),
            };
            ask(&app.owner(), &id).json(&valid_body(&operation.id))
        }
        409 if operation.is_of_members => {
            let id = match operation.id.as_str() {
                "activateAccessToken" => &world.inactive_there,
                "retryParkedMessage" | "dropParkedMessage" => &world.parked_there,
                _ => &world.active_there,
            };
            let mut requests = vec![ask(&conflicted.owner(), id).json(&valid_body(&operation.id))];
            if ["createAccessToken", "rotateAccessToken"].contains(&operation.id.as_str()) {
                let again = ask(&app.owner(), &world.personal).header("idempotency-key", USED);
                requests.push(again.json(&used_body()));
            }
            return Some(requests);
        }
        429 => from_elsewhere(operation.request(&world.strict, &world.personal)),
        413 => {
            let with_headers = operation
                .request(app, &world.personal)
                .header("x-much", "x".repeat(17 * KIB));
            let with_body = operation
                .request(app, &world.personal)
                .body("x".repeat(257 * KIB));
            return Some(match operation.takes_body {
                true => vec![with_headers, with_body],
                false => vec![with_headers],
            });
        }
        // Commands ask the log itself, and need no index that has come so far.
        503 if operation.is_of_members && !operation.method.is_safe() => {
            ask(&world.frozen.owner(), &Uuid::new_v4().to_string()).json(&valid_body(&operation.id))
        }
        503 if operation.is_of_members => {
            ask(&app.owner(), &world.personal).header("x-at-least-position", "1000000000000")
        }
        _ => return None,
    };
    Some(vec![request])
}

/// What operations answer each in its own way; none where nothing here is answered with that status.
fn requests(world: &World, operation: &str, status: u16) -> Option<Vec<reqwest::RequestBuilder>> {
    let World {
        app,
        strict,
        conflicted,
        closed,
        frozen,
        ..
    } = world;
    let owner = app.owner();
    let token = |of: &str| format!("/access-tokens/{of}");
    let action =
        |of: &str, action: &str| owner.request(Method::PUT, &format!("/access-tokens/{of}/{action}"));
    let get = |path: &str| owner.request(Method::GET, path);
    let post = |body: Value| owner.request(Method::POST, "/access-tokens").json(&body);
    let put = |of: &str, body: Value| owner.request(Method::PUT, &token(of)).json(&body);
    let open = |path: &str| app.request(Method::GET, path);
    let late = |request: reqwest::RequestBuilder| request.header("x-at-least-position", "soon");
    let unheard_of = |path: &str, method: Method| {
        let waiting = format!("/access-tokens/{path}?wait=long");
        owner.request(method, &waiting).json(&json!({ "name": "x" }))
    };
    let keyed = |request: reqwest::RequestBuilder| request.header("idempotency-key", USED);
    let rotate = |of: &str, body: Value| {
        owner
            .request(Method::POST, &format!("/access-tokens/{of}/rotate"))
            .json(&body)
    };
    let evaluate =
        |of: &TestApp, question: Value| of.request(Method::POST, "/access/v1/evaluation").json(&question);
    let tell = |of: &TestApp, media_type: &str, body: String| {
        of.request(Method::POST, "/api/v1/membership/events")
            .header("x-intake-key", INTAKE_KEY)
            .header("content-type", media_type)
            .body(body)
    };
    let release = |id: &str, action: &str| format!("/membership/parked/{id}/{action}");
    let removed = || {
        let event = cloud_event(
            "MemberRemoved",
            app.organization_id,
            Uuid::new_v4().into(),
            json!({}),
        );
        event.to_string()
    };
    let evaluate_all = |of: &TestApp, questions: Value| {
        of.request(Method::POST, "/access/v1/evaluations")
            .json(&questions)
    };
    Some(match (operation, status) {
        ("listAccessTokens", 200) => vec![
            get("/access-tokens?name=e&type=Personal&creatorId=&status=&pageIndex=&pageSize=100"),
            get("/access-tokens?pageIndex=2147483647"),
        ],
        ("listAccessTokens", 400) => vec![
            get("/access-tokens?creatorId=x&pageIndex=-1&pageSize=101"),
            late(get("/access-tokens")),
        ],
        ("isAccessTokenNameUsed", 200) => vec![
            get("/access-tokens/is-name-used?name=PERSONAL"),
            get("/access-tokens/is-name-used?name=nobody's"),
        ],
        ("isAccessTokenNameUsed", 400) => vec![
            get("/access-tokens/is-name-used?name=%20"),
            late(get("/access-tokens/is-name-used?name=x")),
        ],
        ("getAccessToken", 200) => vec![
            get(&token(&world.personal)),
            get(&token(&world.service)),
            get(&token(&world.expired)),
        ],
        ("getAccessToken", 400) => vec![late(get(&token(&world.personal)))],
        ("getAccessTokenHistory", 200) => vec![
            get(&format!("/access-tokens/{}/history", world.service)),
            get(&format!("/access-tokens/{}/history?pageIndex=1", world.expired)),
        ],
        ("getAccessTokenHistory", 400) => {
            let history = format!("/access-tokens/{}/history", world.service);
            vec![
                get(&format!("{history}?pageIndex=x&pageSize=0")),
                late(get(&history)),
            ]
        }
        ("createAccessToken", 200) => vec![
            post(json!({ "name": "another", "type": "Personal" })),
            post(
                json!({ "NAME": " a third ", "Type": "Service", "permissions": [statement()],
                         "description": "x", "expiresAt": null, "allowedIps": ["10.0.0.0/8", "::1"] }),
            ),
        ],
        ("createAccessToken", 400) => vec![
            post(json!({ "permissions": "x", "description": 1, "expiresAt": "x", "allowedIps": ["x"] })),
            post(json!({ "name": 1, "type": "x" })),
            post(json!([])),
            post(valid_body(operation)).header("idempotency-key", "two words"),
            late(post(valid_body(operation))),
        ],
        ("createAccessToken", 422) => vec![
            keyed(post(json!({ "name": "another body", "type": "Personal" }))),
            post(json!({ "name": "PERSONAL", "type": "Personal" })),
            strict
                .owner()
                .request(Method::POST, "/access-tokens")
                .json(&valid_body(operation)),
        ],
        ("rotateAccessToken", 200) => vec![
            rotate(&world.service, Value::Null),
            rotate(&world.service, json!({ "overlapSeconds": 60 })),
            owner.request(Method::POST, &format!("/access-tokens/{}/rotate", world.service)),
        ],
        ("rotateAccessToken", 400) => vec![
            rotate(&world.service, json!({ "overlapSeconds": 86_401 })),
            rotate(&world.service, json!("x")),
            rotate(&world.service, json!({})).header("idempotency-key", ""),
            late(rotate(&world.service, json!({}))),
            unheard_of(&format!("{}/rotate", world.service), Method::POST),
        ],
        ("rotateAccessToken", 422) => vec![
            rotate(&world.expired, json!({})),
            keyed(rotate(&world.personal, json!({ "overlapSeconds": 1 }))),
        ],
        ("getAccessTokenPermissions", 200) => vec![
            get(&format!("/access-tokens/{}/permissions", world.personal)),
            get(&format!("/access-tokens/{}/permissions?at=", world.service)),
            get(&format!("/access-tokens/{}/permissions", world.expired)),
        ],
        ("getAccessTokenPermissions", 400) => {
            let permissions = format!("/access-tokens/{}/permissions", world.service);
            vec![get(&format!("{permissions}?at=then")), late(get(&permissions))]
        }
        ("listAuditLogs", 200) => vec![
            get("/audit-logs?pageSize=100"),
            get("/audit-logs?query=nobody%20said%20this&actorId=&type=member&refId=&from=0&to=&after=7"),
        ],
        ("listAuditLogs", 400) => vec![
            get("/audit-logs?actorId=x&refId=x&from=x&to=-1&after=x&pageSize=0"),
            late(get("/audit-logs")),
        ],
        ("listCheckpoints", 200) => vec![get("/audit-logs/checkpoints")],
        ("listCheckpoints", 400) => vec![late(get("/audit-logs/checkpoints"))],
        ("updateAccessToken", 200) => vec![
            put(&world.personal, json!({ "name": "personal", "permissions": [] })),
            put(
                &world.service,
                json!({ "name": "service", "permissions": [statement()], "description": null }),
            ),
        ],
        ("updateAccessToken", 400) => vec![
            put(
                &world.personal,
                json!({ "permissions": 1, "description": 1, "expiresAt": 1, "allowedIps": 1 }),
            ),
            put(&world.personal, json!({ "name": "\u{7}" })),
            put(&world.personal, json!("x")),
            late(put(&world.personal, valid_body(operation))),
            unheard_of(&world.personal, Method::PUT),
        ],
        ("updateAccessToken", 422) => vec![
            put(&world.personal, json!({ "name": "service" })),
            put(&world.service, json!({ "name": "service", "permissions": [] })),
        ],
        ("toggleAccessToken", 200) => vec![
            action(&world.personal, "toggle"),
            action(&world.personal, "toggle"),
        ],
        ("activateAccessToken", 200) => vec![action(&world.personal, "activate")],
        ("deactivateAccessToken", 200) => vec![action(&world.personal, "deactivate")],
        ("removeAccessToken", 200) => {
            vec![owner.request(Method::DELETE, &token(&Uuid::new_v4().to_string()))]
        }
        ("toggleAccessToken", 400) => vec![
            late(action(&world.personal, "toggle")),
            unheard_of(&format!("{}/toggle", world.personal), Method::PUT),
        ],
        ("activateAccessToken", 400) => vec![late(action(&world.personal, "activate"))],
        ("deactivateAccessToken", 400) => vec![
            late(action(&world.personal, "deactivate")),
            unheard_of(&format!("{}/deactivate", world.personal), Method::PUT),
        ],
        ("removeAccessToken", 400) => vec![
            late(owner.request(Method::DELETE, &token(&world.personal))),
            unheard_of(&world.personal, Method::DELETE),
        ],
        ("toggleAccessToken", 422) => vec![action(&world.expired, "toggle")],
        ("activateAccessToken", 422) => vec![action(&world.expired, "activate")],
        ("sendMembershipEvents", 200) => vec![
            tell(app, SINGLE, removed()),
            tell(app, BATCH, format!("[{}, {{}}]", removed())),
            tell(app, BATCH, "[]".to_owned()),
        ],
        ("sendMembershipEvents", 400) => vec![
            tell(app, "application/json", removed()),
            tell(app, SINGLE, "[]".to_owned()),
            tell(app, BATCH, format!("[{}{{}}]", "{},".repeat(1000))),
            tell(&world.reading, SINGLE, removed()),
            app.request(Method::POST, "/api/v1/membership/events?wait=long")
                .header("x-intake-key", INTAKE_KEY)
                .header("content-type", SINGLE)
                .body(removed()),
        ],
        ("listParkedMessages", 200) => vec![
            get("/membership/parked"),
            get("/membership/parked?pageIndex=7&pageSize="),
        ],
        ("listParkedMessages", 400) => vec![
            get("/membership/parked?pageIndex=x&pageSize=0"),
            late(get("/membership/parked")),
        ],
        ("retryParkedMessage", 200) => vec![owner.request(Method::POST, &release(&world.parked, "retry"))],
        ("retryParkedMessage", 400) => vec![
            late(owner.request(Method::POST, &release(&world.parked, "retry"))),
            owner.request(Method::POST, &(release(&world.parked, "retry") + "?wait=x")),
        ],
        ("dropParkedMessage", 200) => vec![owner.request(Method::POST, &release(&world.parked_too, "drop"))],
        ("dropParkedMessage", 400) => {
            vec![late(owner.request(Method::POST, &release(&world.parked, "drop")))]
        }
        ("sendMembershipEvents", 401) => vec![app.request(Method::POST, "/api/v1/membership/events")],
        ("sendMembershipEvents", 404) => vec![tell(closed, SINGLE, removed())],
        ("sendMembershipEvents", 409) => vec![tell(conflicted, SINGLE, removed())],
        ("sendMembershipEvents", 503) => vec![tell(frozen, SINGLE, removed())],
        ("evaluate", 200) => vec![
            evaluate(app, question("access_token", &world.service)),
            evaluate(app, question("access_token", "nobody's")),
            evaluate(app, question("nothing known", "")),
            evaluate(&world.frozen, question("access_token", "")),
        ],
        ("evaluate", 400) => vec![
            evaluate(app, json!({ "subject": 1 })),
            evaluate(app, question("member", "")),
        ],
        ("evaluate", 401) => vec![evaluate(strict, question("access_token", ""))],
        ("evaluateAll", 200) => {
            let mut several = question("access_token", &world.service);
            several["evaluations"] =
                json!([{}, { "subject": { "type": "nothing known", "id": "" } }, { "resource": 1 }]);
            vec![
                evaluate_all(app, several),
                evaluate_all(app, question("access_token", &world.service)),
            ]
        }
        ("evaluateAll", 400) => vec![
            evaluate_all(app, json!({ "evaluations": 1 })),
            evaluate_all(app, question("member", "")),
        ],
        ("evaluateAll", 401) => vec![evaluate_all(strict, question("access_token", ""))],
        ("searchActions", 200) => vec![
            search(app, "action", seeking(world)),
            search(&world.frozen, "action", seeking(world)),
        ],
        ("searchResources", 200) => vec![search(app, "resource", seeking(world))],
        ("searchSubjects", 200) => {
            vec![search(strict, "subject", seeking(world)).header("x-gateway-key", "a key")]
        }
        ("searchActions", 400) => vec![search(app, "action", json!({}))],
        ("searchResources", 400) => vec![search(app, "resource", json!({}))],
        ("searchSubjects", 400) => {
            vec![search(strict, "subject", json!({})).header("x-gateway-key", "a key")]
        }
        ("searchActions", 401) => vec![search(strict, "action", json!({}))],
        ("searchResources", 401) => vec![search(strict, "resource", json!({}))],
        ("searchSubjects", 401) => vec![
            search(app, "subject", json!({})),
            search(strict, "subject", json!({})),
        ],
        ("forwardAuth", 200) => vec![asking(app, &world.passing)],
        ("forwardAuth", 401) => vec![asking(app, "nobody's"), asking(strict, &world.passing)],
        ("forwardAuth", 403) => {
            let unclear = app.request(Method::GET, "/forward-auth");
            vec![unclear.header("authorization", &world.passing)]
        }
        ("forwardAuth", 503) => vec![asking(&world.frozen, &world.passing)],
        ("introspect", 200) => vec![
            app.introspect(&[("token", &world.passing), ("ip", "::1")]),
            app.introspect(&[("token", "nobody's")]),
        ],
        ("introspect", 400) => vec![app.introspect(&[("ip", "::1")])],
        ("introspect", 401) => vec![strict.introspect(&[("token", "x")])],
        ("getAuthZenConfiguration", 200) => vec![open(CONFIGURATION)],
        ("getAuthZenConfiguration", 404) => vec![strict.request(Method::GET, CONFIGURATION)],
        ("getMetrics", 200) => vec![open("/metrics")],
        ("getLiveness", 200) => vec![open("/health/liveness")],
        ("getReadiness", 200) => vec![open("/health/readiness")],
        ("getReadiness", 503) => vec![world.frozen.request(Method::GET, "/health/readiness")],
        ("getOpenApiDocument", 200) => vec![open("/openapi.json")],
        ("showDocumentation", 200) => vec![open("/docs")],
        ("getDocumentationFile", 200) => vec![
            open("/docs/index.css"),
            open("/docs/swagger-ui-bundle.js"),
            open("/docs/favicon-16x16.png"),
        ],
        ("getDocumentationFile", 404) => vec![open("/docs/index.html")],
        _ => return None,
    })
}

/// As a gateway asks for a request that presents this.
fn asking(app: &TestApp, authorization: &str) -> reqwest::RequestBuilder {
    app.request(Method::GET, "/forward-auth")
        .header("authorization", authorization)
        .header("x-featbit-action", "ToggleFlag")
        .header("x-featbit-resource", "project/web:env/prod:flag/dark")
}

fn search(app: &TestApp, what: &str, body: Value) -> reqwest::RequestBuilder {
    app.request(Method::POST, &format!("/access/v1/search/{what}"))
        .json(&body)
}

/// A question that is one for each of the searches.
fn seeking(world: &World) -> Value {
    let mut asked = question("access_token", &world.passing);
    asked["resource"]["properties"] = json!({ "organizationId": world.app.organization_id });
    asked["page"] = json!({ "limit": 1 });
    asked
}

/// A body that the operation takes; one that does not look at its body does not mind.
fn valid_body(operation: &str) -> Value {
    match operation {
        "createAccessToken" => json!({ "name": "one more", "type": "Personal" }),
        "updateAccessToken" => json!({ "name": "renamed" }),
        _ => json!({}),
    }
}

fn statement() -> Value {
    json!({ "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": ["project/web:env/prod:flag/*"] })
}

fn question(kind: &str, id: &str) -> Value {
    json!({
        "subject": { "type": kind, "id": id },
        "action": { "name": "ToggleFlag" },
        "resource": { "type": "flag", "id": "project/web:env/prod:flag/dark" },
    })
}

/// Actors know the base of the management API.
fn below_base(path: &str) -> &str {
    path.strip_prefix("/api/v1").unwrap()
}

/// The answer's status, media type, headers and body are those of the document.
fn holds(document: &Value, status: u16, documented: &Value, answer: &Answer) -> Result<(), String> {
    if answer.status != status {
        return Err("another status".to_owned());
    }
    let media_type = answer
        .header("content-type")
        .split(';')
        .next()
        .unwrap_or_default();
    let schema = match documented.get("content") {
        Some(content) => &content[media_type]["schema"],
        None if answer.text.is_empty() => &NO_BODY,
        None => return Err("a body".to_owned()),
    };
    if schema.is_null() {
        return Err(format!("answered as {media_type:?}"));
    }
    let body = match media_type {
        "application/json" => answer.body.clone(),
        _ => Value::from(answer.text.as_str()),
    };
    if let Err(error) = validator(document, schema).validate(&body) {
        return Err(format!("{error} at {}", error.instance_path()));
    }
    for (name, header) in documented["headers"].as_object().into_iter().flatten() {
        let value = answer.header(name);
        let value = match header["schema"]["type"].as_str() {
            Some("integer") => value.parse::<i64>().map(Value::from).unwrap_or_default(),
            _ => Value::from(value),
        };
        let is_there = answer.headers.contains_key(name.as_str());
        if !is_there || !validator(document, &header["schema"]).is_valid(&value) {
            return Err(format!("the header {name} is {value}"));
        }
    }
    Ok(())
}

/// The codes that the schema of a failure lists, as JSON.
fn documented_codes(documented: &Value) -> BTreeSet<String> {
    let schema = &documented["content"]["application/json"]["schema"];
    let envelope = [schema, &schema["anyOf"][1]]
        .into_iter()
        .find(|schema| !schema["properties"]["errors"].is_null());
    let codes = envelope.and_then(|schema| schema["properties"]["errors"]["items"]["enum"].as_array());
    codes.into_iter().flatten().map(ToString::to_string).collect()
}
