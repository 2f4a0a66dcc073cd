//! The log as evidence: exported and verified, in the database and in a file, with signed checkpoints and without.

mod evidence;
mod signing;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use featbit_tokens::audit::SigningKey;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Options, TestApp, TestDatabase};

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("audit-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of it.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A key of its own.
    fn key(&self, name: &str) -> (SigningKey, String) {
        let random: Vec<u8> = [Uuid::new_v4(), Uuid::new_v4()]
            .iter()
            .flat_map(|id| *id.as_bytes())
            .collect();
        let (key, pem) = SigningKey::from_random(&random.try_into().unwrap()).unwrap();
        (key, self.write(name, pem.as_bytes()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What a command came to.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    out: String,
    said: String,
}

async fn audit(settings: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut program = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"));
    program.arg("audit").args(arguments).stdin(Stdio::null());
    for name in [
        "DATABASE_URL",
        "AUDIT_CHECKPOINT_DIR",
        "AUDIT_SIGNING_KEY_PATH",
        "RUST_LOG",
    ] {
        program.env_remove(name);
    }
    program.envs(settings.iter().copied());
    let ended = tokio::task::spawn_blocking(move || program.output().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = ended.await.unwrap();
    Ran {
        status: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        said: String::from_utf8(stderr).unwrap(),
    }
}

/// A log of a few dozen events, at rest.
async fn a_log() -> TestDatabase {
    let app = TestApp::start_with(Options::default()).await;
    let (owner, developer) = (app.owner(), app.developer());
    for nth in 0..4 {
        let body = json!({ "name": format!("Größe \"{nth}\" \\ \u{1F600}"), "type": "Personal", "description": "line\nbreak" });
        let (id, _) = developer.token(body).await;
        owner
            .put(&format!("/access-tokens/{id}/deactivate"), json!({}))
            .await;
        developer
            .post(
                &format!("/access-tokens/{id}/rotate"),
                json!({ "overlapSeconds": 60 }),
            )
            .await;
        owner
            .service_token(
                &format!("service {nth}"),
                "ToggleFlag",
                "project/web:env/prod:flag/*",
            )
            .await;
    }
    let database = app.database.clone();
    app.stop().await;
    database
}

async fn head(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select max(position) from events")
        .fetch_one(pool)
        .await
        .unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
