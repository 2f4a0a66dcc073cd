//! Secret hygiene: the whole API is used, well and badly, against a real `serve` that logs all it can; then every log line,
//! every answer and every column of every table is searched for what must not be there.
//!
//! Whoever adds a route adds it to [`use_well`]; a token that is issued there goes through [`Session::issue`].
//!
//! Tried: the secret of a new token logged at trace level, and its digest as bytes; the `Authorization` header logged, and
//! the address of a request; the secret as the hint; the digest left in a history; a body in an error's text; any name of a
//! request kept; another digest in the read model.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use chrono::{TimeDelta, Utc};
use domain::ids::MemberId;
use projections::runner::{ReadModel, Runner};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::{JWT_KEY, TestApp, TestDatabase, cloud_event, eventually, free_port, jwt};

const FLAG: &str = "project/web:env/prod:flag/dark";
const GATEWAY_KEY: &str = "the-key-of-a-gateway-that-nobody-may-see";
/// Well formed, and nobody's.
const NOBODYS_SECRET: &str = "api-s_flDIBkGwcRKRL9GXCgaFM3UNu2jQTCljt7CJ2TP5ns";

/// Where digests belong (DESIGN.md): schema, table and column, the version of the schema left out.
const PLACES_OF_DIGESTS: [&str; 3] = [
    "public.events.payload",
    "access_tokens.access_tokens.digest",
    "credentials.credentials.digest",
];
/// And those of secrets that were rotated away, while they work on.
const PLACE_OF_PREVIOUS_DIGESTS: &str = "credentials.credentials.previous_digest";
/// The only events that may hold one.
const EVENTS_WITH_DIGESTS: [&str; 2] = ["access_token.created", "access_token.secret_rotated"];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_but_in_the_one_answer_and_no_digest_where_it_does_not_belong() {
    everything_is_clean("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_the_log_is_written_as_json() {
    everything_is_clean("json").await;
}

async fn everything_is_clean(log_format: &'static str) {
    let mut session = Session::start(log_format).await;
    use_well(&mut session).await;
    use_badly(&mut session).await;

    let log = session.stop().await;
    let (secrets, digests) = session.needles();
    // A read model that only starting nodes read may not have everything yet.
    for read_model in ReadModel::ALL {
        Runner::live(session.database.pool.clone(), read_model)
            .catch_up()
            .await
            .unwrap();
    }
    let database = DatabaseText::read(&session.database.pool).await;

    // The search finds what is there: or else it would find nothing anywhere.
    let canary = format!("{log}\n a line with {} in it", session.issued[0].secret);
    assert!(!found(&secrets, canary.as_bytes()).is_empty());
    for told in ["listening", "append_to_log", "sqlx::query"] {
        assert!(log.contains(told), "the log tells all it can, {told} too");
    }
    assert_eq!(log.lines().next().unwrap().starts_with('{'), log_format == "json");

    assert_eq!(found(&secrets, log.as_bytes()), [""; 0], "in the log");
    assert_eq!(found(&digests, log.as_bytes()), [""; 0], "in the log");
    for (what, answer) in &session.answers {
        assert_eq!(
            found(&secrets, answer.as_bytes()),
            [""; 0],
            "in the answer to {what}: {answer}"
        );
        assert_eq!(
            found(&digests, answer.as_bytes()),
            [""; 0],
            "in the answer to {what}: {answer}"
        );
    }
    for (place, contents) in &database.0 {
        assert_eq!(found(&secrets, contents), [""; 0], "in the database, in {place}");
        if !is_a_place_of_digests(place) {
            assert_eq!(found(&digests, contents), [""; 0], "in the database, in {place}");
        }
    }
    // Where a digest belongs, there it is.
    for place in PLACES_OF_DIGESTS {
        let current = |issued: &&Issued| place == PLACES_OF_DIGESTS[0] || !issued.is_replaced;
        for issued in session.issued.iter().filter(current) {
            let digest = Sha256::digest(issued.secret.as_bytes());
            let forms = [hex(&digest).into_bytes(), digest.to_vec()];
            let is_there = database.0.iter().any(|(known, contents)| {
                without_version(known).starts_with(place) && forms.iter().any(|form| contains(contents, form))
            });
            assert!(is_there, "the digest of {} is in {place}", issued.what);
        }
    }
}

/// Everything a member and a gateway can do.
async fn use_well(session: &mut Session) {
    let statement =
        json!({ "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": [FLAG] });
    let personal = session
        .issue(
            "a personal token",
            "/access-tokens",
            json!({ "name": "mine", "type": "Personal" }),
        )
        .await;
    let service = session
        .issue(
            "a service token",
            "/access-tokens",
            json!({ "name": "bot", "type": "Service", "permissions": [statement], "description": "for CI",
                    "expiresAt": Utc::now() + TimeDelta::days(1), "allowedIps": ["10.0.0.0/8"] }),
        )
        .await;
    let removed = session
        .issue(
            "a token that is removed",
            "/access-tokens",
            json!({ "name": "gone", "type": "Personal" }),
        )
        .await;
    for (what, overlap) in [("a rotation", 0), ("a rotation with an overlap", 3600)] {
        let path = format!("/access-tokens/{}/rotate", service.id);
        session
            .issue(what, &path, json!({ "overlapSeconds": overlap }))
            .await;
    }
    let (personal, service, removed) = (personal.id, service.id, removed.id);
    let path = format!("/access-tokens/{personal}/rotate");
    let keyed = |session: &Session| {
        session
            .managing(Method::POST, &path)
            .header("idempotency-key", "a-key")
    };
    let first = keyed(session);
    session.issue_by("a rotation under a key", first).await;
    let retry = keyed(session);
    assert_eq!(session.send("its retry", retry).await, 409);
    for (method, path, body) in [
        (
            Method::GET,
            "/access-tokens?name=&type=&creatorId=&pageIndex=0&pageSize=10".to_owned(),
            Value::Null,
        ),
        (
            Method::GET,
            "/access-tokens/is-name-used?name=mine".to_owned(),
            Value::Null,
        ),
        (Method::GET, format!("/access-tokens/{personal}"), Value::Null),
        (
            Method::PUT,
            format!("/access-tokens/{personal}"),
            json!({ "name": "still mine" }),
        ),
        (
            Method::PUT,
            format!("/access-tokens/{service}"),
            json!({ "name": "bot", "allowedIps": null, "expiresAt": null }),
        ),
        (Method::PUT, format!("/access-tokens/{service}/toggle"), json!({})),
        (
            Method::PUT,
            format!("/access-tokens/{service}/activate"),
            json!({}),
        ),
        (
            Method::PUT,
            format!("/access-tokens/{personal}/deactivate"),
            json!({}),
        ),
        (
            Method::PUT,
            format!("/access-tokens/{personal}/activate"),
            json!({}),
        ),
        (Method::DELETE, format!("/access-tokens/{removed}"), Value::Null),
        (
            Method::GET,
            format!("/access-tokens/{personal}/history"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("/access-tokens/{service}/history"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("/access-tokens/{removed}/history"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("/access-tokens/{service}/permissions"),
            Value::Null,
        ),
        (Method::GET, "/audit-logs?pageSize=100".to_owned(), Value::Null),
        (Method::GET, "/audit-logs?query=digest".to_owned(), Value::Null),
    ] {
        let what = format!("{method} {path}");
        let request = session.managing(method, &path);
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        assert_eq!(session.send(&what, request).await, 200, "{what}");
    }
    let secrets: Vec<String> = session
        .issued
        .iter()
        .map(|issued| issued.secret.clone())
        .collect();
    for secret in secrets {
        let request = session.asking(&secret);
        assert_eq!(session.send("a decision", request).await, 200);
    }
    for path in ["/health/liveness", "/health/readiness", "/openapi.json", "/docs"] {
        let request = session.request(Method::GET, path);
        assert_eq!(session.send(path, request).await, 200);
    }
}

/// Secrets and JWTs where they don't belong, and where they are wrong.
async fn use_badly(session: &mut Session) {
    let known = session.issued[0].secret.clone();
    let id = session.issued[0].id.clone();
    for secret in [known.as_str(), NOBODYS_SECRET] {
        // In the fields of a body, well formed and not.
        let long = "x".repeat(300 * 1024);
        for (nth, body) in [
            format!("{{\"name\":\"{secret}"),
            secret.to_owned(),
            format!("{{\"name\": {secret}}}"),
            format!("\"{secret}\""),
            format!("{{\"token\":\"{secret}\",\"{secret}\":1}}"),
            format!("{{\"name\":\"n\",\"type\":\"{secret}\"}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"expiresAt\":\"{secret}\"}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"allowedIps\":[\"{secret}\"]}}"),
            format!("{{\"name\":\"n\",\"type\":\"Service\",\"permissions\":\"{secret}\"}}"),
            // Where any text is taken and kept, a secret is not.
            format!("{{\"name\":\"{secret}\",\"type\":\"Personal\"}}"),
            format!("{{\"name\":\"my {secret}!\",\"type\":\"Personal\"}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"description\":\"see {secret}.\"}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"permissions\":[{{\"id\":\"{secret}\",\"resourceType\":\"flag\",\"effect\":\"allow\",\"actions\":[\"a\"],\"resources\":[\"r\"]}}]}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"permissions\":[{{\"resourceType\":\"{secret}\",\"effect\":\"allow\",\"actions\":[\"a\"],\"resources\":[\"r\"]}}]}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"permissions\":[{{\"resourceType\":\"flag\",\"effect\":\"allow\",\"actions\":[\"{secret}\"],\"resources\":[\"r\"]}}]}}"),
            format!("{{\"name\":\"n\",\"type\":\"Personal\",\"permissions\":[{{\"resourceType\":\"flag\",\"effect\":\"allow\",\"actions\":[\"a\"],\"resources\":[\"project/{secret}\"]}}]}}"),
            format!("{{\"name\":\"{secret}{long}\"}}"),
        ]
        .into_iter()
        .enumerate()
        {
            let status = if body.len() > long.len() { 413 } else { 400 };
            let request = session
                .managing(Method::POST, "/access-tokens")
                .header("content-type", "application/json")
                .body(body.clone());
            assert_eq!(session.send(&format!("bad body {nth}"), request).await, status, "{body:.99}");
            let request = session
                .request(Method::POST, "/access/v1/evaluation")
                .header("x-gateway-key", GATEWAY_KEY)
                .header("content-type", "application/json")
                .body(body.clone());
            assert_eq!(session.send(&format!("bad question {nth}"), request).await, status, "{body:.99}");
        }
        let request = session
            .managing(Method::PUT, &format!("/access-tokens/{id}"))
            .json(&json!({ "name": "mine", "description": secret }));
        assert_eq!(session.send("a secret as a description", request).await, 400);
        let request = session
            .managing(Method::PUT, &format!("/access-tokens/{id}"))
            .header("x-request-id", format!("retry-{secret}"))
            .json(&json!({ "name": "mine again" }));
        assert_eq!(
            session.send("a secret in the name of a request", request).await,
            200
        );
        let request = session
            .managing(Method::POST, "/access-tokens")
            .header("idempotency-key", format!("key-{secret}"))
            .json(&json!({ "name": "keyed", "type": "Personal" }));
        assert_eq!(session.send("a secret as a key", request).await, 400);

        // In an address.
        for (method, path) in [
            (Method::GET, format!("/api/v1/access-tokens/{secret}")),
            (Method::PUT, format!("/api/v1/access-tokens/{secret}/activate")),
            (Method::DELETE, format!("/api/v1/access-tokens/{secret}")),
            (
                Method::GET,
                format!(
                    "/api/v1/access-tokens?name={secret}&type={secret}&creatorId={secret}&status={secret}"
                ),
            ),
            (Method::GET, format!("/api/v1/access-tokens?pageIndex={secret}")),
            (
                Method::GET,
                format!("/api/v1/access-tokens/is-name-used?name={secret}"),
            ),
            (
                Method::GET,
                format!("/api/v1/access-tokens/{id}/history?pageSize={secret}"),
            ),
            (Method::GET, format!("/{secret}?{secret}={secret}")),
            (Method::PATCH, format!("/access/v1/evaluation?{secret}")),
            (Method::GET, format!("/health/readiness?token={secret}")),
        ] {
            let request = session.as_owner(session.request(method.clone(), &path));
            let status = session
                .send(&format!("{method} with a secret in its address"), request)
                .await;
            assert!((200..500).contains(&status), "{status}");
        }

        // In headers.
        for name in [
            "authorization",
            "organization",
            "x-at-least-position",
            "x-gateway-key",
            "cookie",
            "origin",
            "accept",
            "content-type",
            "x-forwarded-for",
            "user-agent",
            "referer",
            "x-api-key",
            "idempotency-key",
        ] {
            for path in ["/api/v1/access-tokens", "/access/v1/evaluation", "/nowhere"] {
                let request = session
                    .request(Method::POST, path)
                    .header(name, secret)
                    .body(secret.to_owned());
                let status = session.send(&format!("a secret in {name}"), request).await;
                assert!((400..500).contains(&status), "{name} {path} {status}");
            }
        }
        let large = format!("{secret}{}", "x".repeat(17 * 1024));
        let request = session
            .request(Method::GET, "/api/v1/access-tokens")
            .header("filler", large);
        assert_eq!(session.send("headers that are too large", request).await, 413);
        session.send_raw(&format!("GET {secret}\r\n\r\n")).await;
        session
            .send_raw(&format!("GET / HTTP/1.1\r\nhost: x\r\n{secret}\r\n\r\n"))
            .await;
        session
            .send_raw(&format!(
                "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \0{secret}\r\n\r\n"
            ))
            .await;
    }

    // JWTs that are none of ours, and ours where they don't belong.
    let mut jwts = session.jwts.clone();
    jwts.push(jwt(session.owner, Utc::now() - TimeDelta::minutes(5)));
    jwts.push(jwt(Uuid::new_v4().into(), Utc::now() + TimeDelta::minutes(5)));
    for good in jwts.clone() {
        let (head, signature) = good.rsplit_once('.').unwrap();
        jwts.push(format!("{head}.{}{}", &signature[1..], &signature[..1]));
    }
    session.jwts.clone_from(&jwts);
    for jwt in jwts {
        for authorization in [format!("Bearer {jwt}"), jwt.clone(), format!("Basic {jwt}")] {
            let request = session
                .request(
                    Method::GET,
                    &format!("/api/v1/access-tokens/{jwt}?access_token={jwt}"),
                )
                .header("authorization", authorization)
                .header("cookie", format!("refresh-token={jwt}"));
            let status = session.send("a JWT", request).await;
            assert!((400..500).contains(&status), "{status}");
        }
        let request = session.asking(&jwt);
        assert_eq!(session.send("a JWT as a token", request).await, 200);
        let request = session
            .managing(Method::POST, "/access-tokens")
            .body(format!("{{\"name\": {jwt}"));
        assert_eq!(session.send("a JWT in a body", request).await, 400);
    }
    for key in [JWT_KEY, &GATEWAY_KEY[1..]] {
        let request = session
            .request(Method::POST, "/access/v1/evaluation")
            .header("x-gateway-key", key);
        assert_eq!(session.send("a wrong gateway key", request).await, 401);
    }
}

/// A token whose secret was answered once.
#[derive(Clone)]
struct Issued {
    what: &'static str,
    id: String,
    secret: String,
    /// The token has another secret by now.
    is_replaced: bool,
}

/// A `serve` that logs to a file, what was sent to it, and what came back.
struct Session {
    database: TestDatabase,
    service: Child,
    log: PathBuf,
    url: String,
    port: u16,
    client: reqwest::Client,
    organization: String,
    owner: MemberId,
    issued: Vec<Issued>,
    jwts: Vec<String>,
    /// Every answer, the secret taken out of the one that issued it.
    answers: Vec<(String, String)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.service.kill().ok();
        self.service.wait().ok();
        std::fs::remove_file(&self.log).ok();
    }
}

impl Session {
    async fn start(log_format: &'static str) -> Self {
        // Another node makes the organization, and a parked message beside it.
        let app = TestApp::start().await;
        let nowhere = cloud_event(
            "NoSuchThing",
            app.organization_id,
            Uuid::new_v4().into(),
            json!({}),
        );
        app.tell(&[nowhere]).await;
        let (database, owner) = (app.database.clone(), app.owner());
        app.stop().await;

        let name = format!("log-{}", Uuid::new_v4().simple());
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = File::create(&log).unwrap();
        let port = free_port();
        let service = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"))
            .arg("serve")
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .env("DATABASE_URL", &database.url)
            .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
            .env("JWT_KEY", JWT_KEY)
            .env("GATEWAY_KEYS", format!("another-key,{GATEWAY_KEY}"))
            .env("RUST_LOG", "trace")
            .env("LOG_FORMAT", log_format)
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .stderr(Stdio::from(file))
            .spawn()
            .unwrap();
        let session = Self {
            database,
            service,
            log,
            url: format!("http://127.0.0.1:{port}"),
            port,
            client: reqwest::Client::new(),
            organization: owner.organization_id.to_string(),
            owner: owner.member_id,
            issued: Vec::new(),
            jwts: vec![jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5))],
            answers: Vec::new(),
        };
        eventually("the service is ready", async || {
            let ready = session.request(Method::GET, "/health/readiness").send().await;
            ready.is_ok_and(|answer| answer.status() == 200).then_some(())
        })
        .await;
        session
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    fn as_owner(&self, request: RequestBuilder) -> RequestBuilder {
        request
            .header("organization", &self.organization)
            .header("authorization", format!("Bearer {}", self.jwts[0]))
    }

    fn managing(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_owner(self.request(method, &format!("/api/v1{path}")))
    }

    fn asking(&self, token: &str) -> RequestBuilder {
        let question = json!({ "subject": { "type": "access_token", "id": token }, "action": { "name": "ToggleFlag" },
                               "resource": { "type": "flag", "id": FLAG } });
        self.request(Method::POST, "/access/v1/evaluation")
            .header("x-gateway-key", GATEWAY_KEY)
            .json(&question)
    }

    /// Answers the status; keeps the rest, to be searched.
    async fn send(&mut self, what: &str, request: RequestBuilder) -> u16 {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let mut answer = String::new();
        for (name, value) in response.headers() {
            writeln!(answer, "{name}: {}", String::from_utf8_lossy(value.as_bytes())).unwrap();
        }
        answer.push_str(&String::from_utf8_lossy(&response.bytes().await.unwrap()));
        self.answers.push((what.to_owned(), answer));
        status
    }

    async fn send_raw(&mut self, bytes: &str) {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        connection.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Reset by the other end, or answered: both will do.
        let _ = connection.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        self.answers.push(("bytes that are no HTTP".to_owned(), answer));
    }

    /// A POST whose answer holds a secret: the one answer that does.
    async fn issue(&mut self, what: &'static str, path: &str, body: Value) -> Issued {
        let request = self.managing(Method::POST, path).json(&body);
        self.issue_by(what, request).await
    }

    async fn issue_by(&mut self, what: &'static str, request: RequestBuilder) -> Issued {
        assert_eq!(self.send(what, request).await, 200, "{what}");
        let (_, answer) = self.answers.last_mut().unwrap();
        let body: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        let issued = Issued {
            what,
            id: body["data"]["id"].as_str().unwrap().to_owned(),
            secret: body["data"]["token"].as_str().unwrap().to_owned(),
            is_replaced: false,
        };
        for earlier in &mut self.issued {
            earlier.is_replaced |= earlier.id == issued.id;
        }
        *answer = answer.replacen(&issued.secret, "", 1);
        self.issued.push(issued.clone());
        issued
    }

    /// Ends the service in order; all it has written.
    async fn stop(&mut self) -> String {
        let pid = self.service.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        eventually("the service ends", async || self.service.try_wait().unwrap()).await;
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// What may be nowhere; and the digests, which may be in few places.
    fn needles(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut secrets, mut digests) = (Vec::new(), Vec::new());
        let texts = self.issued.iter().map(|issued| issued.secret.as_str());
        for secret in texts.chain([NOBODYS_SECRET]) {
            let random = &secret[6..42];
            let as_a_list = format!("{:?}", random.as_bytes());
            secrets.extend([
                random.to_owned(),
                hex(random.as_bytes()),
                as_a_list[1..as_a_list.len() - 1].to_owned(),
            ]);
            let digest = Sha256::digest(secret.as_bytes());
            let as_a_list = format!("{:?}", digest.as_slice());
            digests.extend([
                hex(&digest).into_bytes(),
                hex(&digest).to_uppercase().into_bytes(),
                base64(&digest, b"+/").into_bytes(),
                base64(&digest, b"-_").into_bytes(),
                as_a_list[1..as_a_list.len() - 1].to_owned().into_bytes(),
                digest.to_vec(),
            ]);
        }
        for jwt in &self.jwts {
            secrets.push(jwt.rsplit_once('.').unwrap().1.to_owned());
        }
        secrets.extend([
            JWT_KEY.to_owned(),
            GATEWAY_KEY[1..].to_owned(),
            "another-key".to_owned(),
        ]);
        let password = self
            .database
            .url
            .split_once('@')
            .and_then(|(before, _)| before.rsplit_once(':'));
        secrets.extend(
            password
                .map(|(_, password)| password.to_owned())
                .filter(|password| password.len() > 8),
        );
        (secrets.into_iter().map(String::into_bytes).collect(), digests)
    }
}

/// Every column of every table, by its place: `schema.table.column`, for events with their type.
struct DatabaseText(Vec<(String, Vec<u8>)>);

impl DatabaseText {
    async fn read(pool: &PgPool) -> Self {
        let columns = sqlx::query(
            "select table_schema, table_name, column_name, data_type
             from information_schema.columns join information_schema.tables using (table_schema, table_name)
             where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')
             order by 1, 2, 3",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let mut all = Vec::new();
        for column in columns {
            let [schema, table, column, data_type]: [String; 4] =
                std::array::from_fn(|nth| column.try_get(nth).unwrap());
            let value = if data_type == "bytea" {
                format!("\"{column}\"")
            } else {
                format!("convert_to(\"{column}\"::text, 'UTF8')")
            };
            let kind = if table == "events" { "event_type" } else { "''" };
            let rows: Vec<(Option<Vec<u8>>, String)> =
                sqlx::query_as(&format!("select {value}, {kind} from \"{schema}\".\"{table}\""))
                    .fetch_all(pool)
                    .await
                    .unwrap();
            for (contents, kind) in rows {
                let place = format!("{schema}.{table}.{column} {kind}");
                all.push((place, contents.unwrap_or_default()));
            }
        }
        for known in [
            "public.events.payload",
            "public.parked_messages.payload",
            "public.inbox.key",
        ] {
            assert!(
                all.iter()
                    .any(|(place, contents)| place.starts_with(known) && !contents.is_empty())
            );
        }
        Self(all)
    }
}

fn without_version(place: &str) -> String {
    match place.split_once("_v") {
        Some((name, rest)) if name == "access_tokens" || name == "credentials" => {
            format!(
                "{name}{}",
                rest.trim_start_matches(|digit: char| digit.is_ascii_digit())
            )
        }
        _ => place.to_owned(),
    }
}

fn is_a_place_of_digests(place: &str) -> bool {
    let place = without_version(place);
    let (column, event_type) = place.split_once(' ').unwrap();
    (PLACES_OF_DIGESTS.contains(&column) || column == PLACE_OF_PREVIOUS_DIGESTS)
        && (event_type.is_empty() || EVENTS_WITH_DIGESTS.contains(&event_type))
}

/// The needles in a haystack, which may have tens of megabytes: gone through once.
fn found(needles: &[Vec<u8>], haystack: &[u8]) -> Vec<String> {
    let mut by_first = vec![Vec::new(); 256];
    for needle in needles {
        by_first[usize::from(needle[0])].push(needle);
    }
    let mut found: BTreeSet<&Vec<u8>> = BTreeSet::new();
    for (place, first) in haystack.iter().enumerate() {
        let here = by_first[usize::from(*first)].iter();
        found.extend(
            here.copied()
                .filter(|needle: &&Vec<u8>| haystack[place..].starts_with(needle)),
        );
    }
    found
        .into_iter()
        .map(|needle| String::from_utf8_lossy(needle).into_owned())
        .collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !found(&[needle.to_vec()], haystack).is_empty()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without padding; the last two letters of the alphabet are the variant's.
fn base64(bytes: &[u8], last_two: &[u8; 2]) -> String {
    let alphabet: Vec<u8> = (b'A'..=b'Z')
        .chain(b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(*last_two)
        .collect();
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    bits.as_bytes()
        .chunks(6)
        .map(|six| format!("{:0<6}", std::str::from_utf8(six).unwrap()))
        .map(|six| char::from(alphabet[usize::from_str_radix(&six, 2).unwrap()]))
        .collect()
}

/// The reason why the database is out of reach is told, the password is not.
#[test]
fn a_database_that_is_out_of_reach_is_named_without_its_password() {
    for url in [
        "postgres://me:pass-word-1234@127.0.0.1:1/none",
        "postgres://me:pass-word-1234@127.0.0.1:port/none",
        "postgres://me:pass-word-1234@[::1/none",
        "me:pass-word-1234@127.0.0.1",
    ] {
        for command in ["serve", "migrate"] {
            let output = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"))
                .arg(command)
                .env_remove("KAFKA_BOOTSTRAP_SERVERS")
                .env("DATABASE_URL", url)
                .env("HTTP_ADDR", "127.0.0.1:0")
                .env("JWT_KEY", JWT_KEY)
                .env("RUST_LOG", "trace")
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert_eq!(
                output.status.code(),
                Some(1),
                "{}",
                String::from_utf8_lossy(&said)
            );
            assert!(!said.is_empty());
            assert!(
                !contains(&said, b"pass-word-1234"),
                "{}",
                String::from_utf8_lossy(&said)
            );
        }
    }
}
