//! The program as people start it: `dev` with everything embedded, `serve` and `migrate` by the environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::{JWT_KEY, TestDatabase, eventually};

/// How long `dev` may take to be ready: initdb, and a group's first join.
const READY: Duration = Duration::from_secs(60);

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"));
    program
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["HOME", "POSTGRES_BIN_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            program.env(name, value);
        }
    }
    program
}

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dev-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running `dev`.
struct Dev {
    child: Child,
    told: Value,
}

impl Drop for Dev {
    /// Nothing runs on after a test that failed.
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Dev {
    async fn start(dir: &Path, arguments: &[&str]) -> Self {
        // One that was killed leaves its own behind, and this test is faster than the next one clears it away.
        std::fs::remove_file(dir.join("dev.json")).ok();
        let child = program()
            .args(["dev", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut dev = Self {
            child,
            told: Value::Null,
        };
        let since = Instant::now();
        while dev.told.is_null() {
            assert!(since.elapsed() < READY, "dev is ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(text) = std::fs::read_to_string(dir.join("dev.json")) {
                dev.told = serde_json::from_str(&text).unwrap();
            }
        }
        dev
    }

    fn text(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    fn jwt(&self, role: &str) -> String {
        let member = self.told["members"]
            .as_array()
            .unwrap()
            .iter()
            .find(|member| member["role"] == role);
        format!("Bearer {}", member.unwrap()["jwt"].as_str().unwrap())
    }

    async fn create(&self, name: &str) -> Value {
        self.send(reqwest::Method::POST, json!({ "name": name, "type": "Personal" }))
            .await
    }

    async fn list(&self) -> Value {
        self.send(reqwest::Method::GET, Value::Null).await
    }

    async fn send(&self, method: reqwest::Method, body: Value) -> Value {
        let url = format!("{}/api/v1/access-tokens", self.text("http"));
        let request = reqwest::Client::new()
            .request(method, url)
            .header("authorization", self.jwt("developer"))
            .header("organization", self.text("organizationId"));
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn may(&self, token: &Value) -> Value {
        let question = json!({
            "subject": { "type": "access_token", "id": token["data"]["token"] },
            "action": { "name": "ToggleFlag" },
            "resource": { "type": "flag", "id": "project/web:env/prod:flag/dark" },
        });
        let url = format!("{}/access/v1/evaluation", self.text("http"));
        let answer = reqwest::Client::new()
            .post(url)
            .json(&question)
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    }

    async fn signal(mut self, signal: &str) -> std::process::ExitStatus {
        Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        tokio::task::spawn_blocking(move || self.child.wait().unwrap())
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_keeps_its_data_and_leaves_nothing_running() {
    let folder = Folder::new();
    std::fs::write(folder.0.join("notes.txt"), "not dev's").unwrap();
    let first = Dev::start(&folder.0, &[]).await;
    let token = first.create("kept").await;
    assert_eq!(first.may(&token).await["decision"], true);
    let database_url = first.text("databaseUrl").to_owned();
    assert!(first.signal("-TERM").await.success());
    assert!(
        !folder.0.join("dev.json").exists(),
        "dev.json is there only while dev is ready"
    );
    assert!(
        PgConnection::connect(&database_url).await.is_err(),
        "PostgreSQL has stopped with it"
    );

    let second = Dev::start(&folder.0, &[]).await;
    // Tried: without the lock, its `dev.json` is gone.
    let mut another = program();
    another
        .args(["dev", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(&folder.0);
    let (code, said) = tokio::task::spawn_blocking(move || run(&mut another))
        .await
        .unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another `dev` is using"), "{said}");
    for file in ["dev.json", "env"] {
        assert!(folder.0.join(file).exists(), "{file} is still there");
    }
    assert_eq!(
        second.may(&token).await["decision"],
        true,
        "the token is still there"
    );
    let pool = PgConnection::connect(second.text("databaseUrl"));
    let members: i64 = sqlx::query_scalar("select count(*) from events where event_type = 'member.added'")
        .fetch_one(&mut pool.await.unwrap())
        .await
        .unwrap();
    assert_eq!(members, 3, "the demo organization is made once");
    let database_url = second.text("databaseUrl").to_owned();
    second.signal("-KILL").await;
    eventually("PostgreSQL ends with a dev that was killed", async || {
        PgConnection::connect(&database_url).await.is_err().then_some(())
    })
    .await;

    let third = Dev::start(&folder.0, &[]).await;
    assert_eq!(third.may(&token).await["decision"], true, "and after a kill -9");
    assert!(third.signal("-INT").await.success());
    assert_eq!(
        std::fs::read_to_string(folder.0.join("notes.txt")).unwrap(),
        "not dev's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_dev_joins_the_first_as_one_more_node() {
    let (one, two) = (Folder::new(), Folder::new());
    let first = Dev::start(&one.0, &[]).await;
    let joining = [
        "--database-url",
        first.text("databaseUrl"),
        "--kafka-bootstrap",
        first.text("kafka"),
    ];
    let second = Dev::start(&two.0, &joining).await;
    assert_eq!(
        first.told["jwtKey"], second.told["jwtKey"],
        "the same installation"
    );
    let token = first.create("from the first").await;
    eventually("the second node knows the token", async || {
        (second.may(&token).await["decision"] == true).then_some(())
    })
    .await;
    eventually("the second node lists it", async || {
        (second.list().await["data"]["totalCount"] == 1).then_some(())
    })
    .await;
    assert!(second.signal("-TERM").await.success());
    assert_eq!(first.may(&token).await["decision"], true, "the first goes on");
    assert!(first.signal("-TERM").await.success());
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_0() {
    assert_eq!(run(program().arg("no-such-command")).0, Some(2));
    assert_eq!(run(&mut program()).0, Some(2));
    for arguments in [
        vec!["--help"],
        vec!["dev", "--help"],
        vec!["serve", "--help"],
        vec!["migrate", "--help"],
    ] {
        assert_eq!(run(program().args(arguments)).0, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_names_the_setting_that_is_wrong() {
    let database = TestDatabase::new().await;
    let good = [
        ("DATABASE_URL", database.url.as_str()),
        ("HTTP_ADDR", "127.0.0.1:0"),
        ("JWT_KEY", JWT_KEY),
    ];
    let cases = [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "featbit"),
        ("DATABASE_URL", "mysql://root@localhost/featbit"),
        ("JWT_KEY", ""),
        ("JWT_KEY", "too short"),
        ("JWT_ALGORITHM", "none"),
        ("JWT_PUBLIC_KEY_PATH", ""),
        ("TRUSTED_PROXY_HOPS", "-1"),
        ("HTTP_ADDR", "nowhere"),
        ("GATEWAY_KEYS", ""),
        ("INTAKE_KEYS", "intake, gateway"),
        ("CORS_ORIGINS", "https://featbit.example/"),
        ("CORS_ORIGINS", "https://"),
        ("MAX_STALENESS_MS", "soon"),
        ("MAX_EXPIRY_DAYS", "-1"),
        ("FORWARD_AUTH_SOURCE", "envoy"),
        ("FORWARD_AUTH_SOURCE", "x-forwarded"),
        ("FORWARD_AUTH_SOURCE", "Headers"),
        ("FORWARD_AUTH_JWT", "maybe"),
        ("PUBLIC_URL", "tokens.example"),
        ("PUBLIC_URL", "ftp://tokens.example"),
        ("PUBLIC_URL", "https://user@tokens.example"),
        ("PUBLIC_URL", "https://tokens.example/?tenant=1"),
        ("PUBLIC_URL", "https://tokens.example/#top"),
        ("PUBLIC_URL", "https://"),
    ];
    for (name, value) in cases {
        let mut serve = program();
        serve.arg("serve").envs(good).env(name, value);
        match name {
            "JWT_PUBLIC_KEY_PATH" => serve.env("JWT_ALGORITHM", "RS256").env_remove("JWT_KEY"),
            "GATEWAY_KEYS" => serve.env("HTTP_ADDR", "0.0.0.0:0"),
            "INTAKE_KEYS" => serve.env("GATEWAY_KEYS", "gateway"),
            _ => &mut serve,
        };
        let (code, said) = tokio::task::spawn_blocking(move || run(&mut serve))
            .await
            .unwrap();
        assert_eq!(code, Some(1), "{name}={value}: {said}");
        assert!(said.contains(name), "{name}={value}: {said}");
    }
}

/// Which keys are refused, and why, is tested beside `src/config/jwt.rs`.
#[test]
fn serve_refuses_a_key_that_is_no_secret_and_does_not_print_it() {
    let published = "featbit-identity-key-must-longer-than-32-characters";
    let short = "a key of thirty-one bytes: 31!!";
    for (key, why) in [(published, "publishes"), (short, "32 bytes")] {
        let mut serve = program();
        serve
            .arg("serve")
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
            .env("HTTP_ADDR", "127.0.0.1:0")
            .env("RUST_LOG", "trace")
            .env("JWT_KEY", key);
        let Output {
            status,
            stdout,
            stderr,
        } = serve.output().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("JWT_KEY") && said.contains(why), "{said}");
        assert!(!said.contains(key), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_out_of_date_is_refused_and_migrate_mends_it() {
    let database = TestDatabase::new().await;
    database
        .pool
        .execute("drop schema public cascade; create schema public")
        .await
        .unwrap();
    database
        .pool
        .execute("drop schema access_tokens_v1, members_v1, credentials_v1 cascade")
        .await
        .unwrap();
    for arguments in [
        &["serve"][..],
        &["replay", "--all"],
        &["audit", "verify"],
        &["audit", "export"],
    ] {
        let mut command = program();
        command
            .args(arguments)
            .env("DATABASE_URL", &database.url)
            .env("HTTP_ADDR", "127.0.0.1:0")
            .env("JWT_KEY", JWT_KEY);
        let (code, said) = tokio::task::spawn_blocking(move || run(&mut command))
            .await
            .unwrap();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("featbit-tokens migrate"), "{said}");
    }

    let mut migrate = program();
    migrate.arg("migrate").env("DATABASE_URL", &database.url);
    let (code, said) = tokio::task::spawn_blocking(move || run(&mut migrate))
        .await
        .unwrap();
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let tables: i64 = sqlx::query_scalar("select count(*) from events")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(tables, 0);
}
