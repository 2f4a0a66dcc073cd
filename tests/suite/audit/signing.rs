//! Signed checkpoints: written by nodes, shown by the API, held against.

use featbit_tokens::config::{Config, Environment};
use sqlx::Executor;

use super::*;
use crate::support::{JWT_KEY, eventually};

fn signing(folder: &Folder, key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AUDIT_SIGNING_KEY_PATH", key.to_owned()),
        (
            "AUDIT_CHECKPOINT_DIR",
            folder.path("checkpoints").to_str().unwrap().to_owned(),
        ),
        ("AUDIT_CHECKPOINT_INTERVAL_SECONDS", "1".to_owned()),
        // However slow the machine is.
        ("MAX_STALENESS_MS", "30000".to_owned()),
    ]
}

fn files(folder: &Folder) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(folder.path("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    files
}

async fn shown(app: &TestApp) -> Value {
    let answer = app.owner().get("/audit-logs/checkpoints").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["data"].clone()
}

/// Waits until the head is signed, and answers it.
async fn signed(app: &TestApp) -> i64 {
    let head = head(&app.database.pool).await;
    eventually("the head is signed", async || {
        (shown(app).await["items"][0]["position"] == head).then_some(head)
    })
    .await
}

/// All hashes made anew, as the log's own functions make them.
const REWRITE: &str = "do $$
    declare e record; previous bytea := decode(repeat('00', 32), 'hex');
    begin
        for e in select * from events order by position loop
            previous := event_hash(e.position, previous, hashed_contents(e.aggregate_type, e.aggregate_id, e.sequence,
                e.event_type, e.event_version, e.payload::text, e.metadata::text, e.recorded_at));
            update events set hash = previous where position = e.position;
        end loop;
    end $$";

/// Two nodes write to one directory. Tried: each file written in place, under a name of its position alone; a chain that is
/// not held against what was signed; without looking at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_or_written_anew_is_not_the_one_that_was_signed() {
    let folder = Folder::new();
    let (_, key) = folder.key("key.pem");
    let app = TestApp::start_with(Options {
        settings: signing(&folder, &key),
        database: None,
    })
    .await;
    let database = app.database.clone();
    let second = TestApp::start_with(Options {
        settings: signing(&folder, &key),
        database: Some(database.clone()),
    })
    .await;
    let (owner, other) = (app.owner(), second.owner());
    let mut positions = Vec::new();
    for nth in 0..3 {
        owner.personal_token(&format!("{nth}")).await;
        other.personal_token(&format!("{nth}")).await;
        positions.push(signed(&app).await);
    }
    let data = shown(&app).await;
    assert_eq!(data["isBroken"], false);
    for item in data["items"].as_array().unwrap() {
        assert_eq!(item["publicKey"], data["publicKey"]);
    }
    assert!(
        files(&folder).iter().all(|name| name.ends_with(".json")),
        "nothing half written: {:?}",
        files(&folder)
    );
    for app in [app, second] {
        app.stop().await;
    }

    let directory = folder.path("checkpoints").to_str().unwrap().to_owned();
    let settings = [
        ("DATABASE_URL", database.url.as_str()),
        ("AUDIT_CHECKPOINT_DIR", &directory),
        ("AUDIT_SIGNING_KEY_PATH", &key),
    ];
    let verified = audit(&settings, &["verify"]).await;
    assert_eq!(verified.status, Some(0), "{}", verified.said);
    let held = format!(
        "held against {} signed checkpoints, the last at position {}",
        files(&folder).len(),
        positions[2]
    );
    assert!(verified.said.contains(&held), "{}", verified.said);
    let exported = audit(&settings, &["export"]).await.out;
    let whole = folder.write("whole.jsonl", &exported);
    assert_eq!(
        audit(&settings[1..], &["verify", "--file", &whole]).await.status,
        Some(0)
    );

    // A file without its tail.
    let cut: String = exported.lines().take(4).map(|line| format!("{line}\n")).collect();
    let cut = folder.write("cut.jsonl", cut);
    let verified = audit(&settings[1..], &["verify", "--file", &cut]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.said);
    assert!(
        verified
            .said
            .contains("position 5: the event is missing, and all after it: position"),
        "{}",
        verified.said
    );
    let meant = audit(&settings[1..], &["verify", "--file", &cut, "--to", "4"]).await;
    assert_eq!(meant.status, Some(0), "{}", meant.said);

    // A log without its tail, and nobody left who has followed it.
    let pool = &database.pool;
    pool.execute("create table kept as select * from events; alter table events disable trigger all")
        .await
        .unwrap();
    let last = positions[2];
    pool.execute(
        format!(
            "delete from events where position > {0}; update read_models set position = least(position, {0});
             update checkpoints set position = least(position, {0})",
            last - 1
        )
        .as_str(),
    )
    .await
    .unwrap();
    assert_eq!(
        audit(&settings[..1], &["verify"]).await.status,
        Some(0),
        "the chain by itself can't tell"
    );
    let verified = audit(&settings, &["verify"]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.said);
    assert!(
        verified.said.contains(&format!(
            "position {last}: the event is missing, and all after it: position {last} was signed"
        )),
        "{}",
        verified.said
    );

    // A log written anew from the second checkpoint on.
    pool.execute("delete from events; insert into events select * from kept")
        .await
        .unwrap();
    let from = positions[0] + 1;
    pool.execute(
        format!("update events set payload = replace(payload::text, '\"1\"', '\"I\"')::json where position >= {from}; {REWRITE}").as_str(),
    )
    .await
    .unwrap();
    assert_eq!(
        audit(&settings[..1], &["verify"]).await.status,
        Some(0),
        "the chain by itself can't tell"
    );
    let verified = audit(&settings, &["verify"]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.said);
    let (first_changed,): (i64,) = sqlx::query_as(
        "select min(position) from events join kept using (position) where events.payload::text <> kept.payload::text",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let names = files(&folder);
    let mut at = names.iter().map(|name| name[..19].parse::<i64>().unwrap());
    let named = format!(
        "position {}: the event's hash is not the one that was signed",
        at.find(|position| *position >= first_changed).unwrap()
    );
    assert!(verified.said.contains(&named), "{named}: {}", verified.said);
    let rewritten = folder.write("rewritten.jsonl", audit(&settings, &["export"]).await.out);
    let verified = audit(&settings[1..], &["verify", "--file", &rewritten]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.said);

    // No node signs that.
    let before = files(&folder);
    let app = TestApp::start_with(Options {
        settings: signing(&folder, &key),
        database: Some(database.clone()),
    })
    .await;
    eventually("it is shown as broken", async || {
        (shown(&app).await["isBroken"] == true).then_some(())
    })
    .await;
    assert_eq!(files(&folder), before, "nothing was signed");

    // Somebody puts it right again: it is still shown as broken. Tried: each round's own fault shown.
    pool.execute(
        format!(
            "update events set payload = kept.payload from kept where events.position = kept.position; {REWRITE}"
        )
        .as_str(),
    )
    .await
    .unwrap();
    let whole = TestApp::start_with(Options {
        settings: signing(&folder, &key),
        database: Some(database.clone()),
    })
    .await;
    for name in ["after", "later"] {
        whole.owner().personal_token(name).await;
        signed(&whole).await;
    }
    eventually("the first node answers again", async || {
        let answer = app.owner().get("/audit-logs/checkpoints").await;
        (answer.status == 200 && answer.body["data"]["isBroken"] == true).then_some(())
    })
    .await;
    for app in [app, whole] {
        app.stop().await;
    }
}

/// Tried: the number of all checkpoints said, wherever they are; settings that are there and empty taken for a directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_held_against_the_checkpoints_of_its_positions_alone() {
    let (database, folder) = (a_log().await, Folder::new());
    std::fs::create_dir(folder.path("checkpoints")).unwrap();
    let (key, path) = folder.key("key.pem");
    let directory = folder.path("checkpoints").to_str().unwrap().to_owned();
    for position in [5_i64, 9] {
        let (hash, time): (Vec<u8>, chrono::DateTime<chrono::Utc>) =
            sqlx::query_as("select hash, recorded_at from events where position = $1")
                .bind(position)
                .fetch_one(&database.pool)
                .await
                .unwrap();
        let checkpoint = key.sign(position, &hash.try_into().unwrap(), time);
        let name = format!("checkpoints/{}", checkpoint.file_name());
        folder.write(&name, serde_json::to_string(&checkpoint).unwrap());
    }
    let settings = [
        ("DATABASE_URL", database.url.as_str()),
        ("AUDIT_CHECKPOINT_DIR", &directory),
        ("AUDIT_SIGNING_KEY_PATH", &path),
    ];
    for (from, to, said) in [
        (
            "1",
            "4",
            "not held against signed checkpoints: none is of these positions",
        ),
        (
            "1",
            "8",
            "held against 1 signed checkpoints, the last at position 5",
        ),
        (
            "6",
            "9",
            "held against 2 signed checkpoints, the last at position 9",
        ),
        (
            "7",
            "8",
            "not held against signed checkpoints: none is of these positions",
        ),
    ] {
        let part = audit(&settings, &["export", "--from", from, "--to", to])
            .await
            .out;
        let file = folder.write("part.jsonl", part);
        let verified = audit(
            &settings[1..],
            &["verify", "--file", &file, "--from", from, "--to", to],
        )
        .await;
        assert_eq!(verified.status, Some(0), "{}", verified.said);
        assert!(verified.said.contains(said), "{from} to {to}: {}", verified.said);
    }
    let empty = [
        ("DATABASE_URL", database.url.as_str()),
        ("AUDIT_CHECKPOINT_DIR", ""),
        ("AUDIT_SIGNING_KEY_PATH", " "),
    ];
    let verified = audit(&empty, &["verify"]).await;
    assert_eq!(verified.status, Some(0), "{}", verified.said);
    assert!(
        verified.said.contains("AUDIT_CHECKPOINT_DIR is not set"),
        "{}",
        verified.said
    );
}

/// Tried: the signature not looked at; the key in the file believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_counts_only_with_the_signature_of_a_key_that_was_named() {
    let (database, folder) = (a_log().await, Folder::new());
    std::fs::create_dir(folder.path("checkpoints")).unwrap();
    let (key, path) = folder.key("key.pem");
    let (other, other_path) = folder.key("other.pem");
    let row: (Vec<u8>, chrono::DateTime<chrono::Utc>) =
        sqlx::query_as("select hash, recorded_at from events where position = 5")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    let hash: [u8; 32] = row.0.try_into().unwrap();
    let good = key.sign(5, &hash, row.1);
    let written = |checkpoint: &Value| {
        folder.write("checkpoints/0000000000000000005-x-y.json", checkpoint.to_string());
    };
    let directory = folder.path("checkpoints").to_str().unwrap().to_owned();
    let verify = async |key: &str| {
        let settings = [
            ("DATABASE_URL", database.url.as_str()),
            ("AUDIT_CHECKPOINT_DIR", &directory),
            ("AUDIT_SIGNING_KEY_PATH", key),
        ];
        let settings = if key.is_empty() {
            &settings[..2]
        } else {
            &settings[..]
        };
        audit(settings, &["verify"]).await
    };
    let json = |checkpoint| serde_json::to_value(checkpoint).unwrap();
    written(&json(&good));
    assert_eq!(verify(&path).await.status, Some(0));
    assert_eq!(verify(&other_path).await.status, Some(1));
    let without = verify("").await;
    assert_eq!(without.status, Some(1));
    assert!(
        without.said.contains("AUDIT_SIGNING_KEY_PATH"),
        "{}",
        without.said
    );

    for (field, value) in [
        ("position", json!(6)),
        ("hash", json!("00".repeat(32))),
        ("time", json!("2026-01-01T00:00:00Z")),
        ("publicKey", json!(other.public_key())),
        ("signature", json!("00".repeat(64))),
        ("signature", json!("")),
        ("note", json!("trust me")),
    ] {
        let mut forged = json(&good);
        forged[field] = value;
        written(&forged);
        let verified = verify(&path).await;
        assert_eq!(verified.status, Some(1), "{field}: {}", verified.said);
        assert!(
            verified.said.contains("0000000000000000005-x-y.json"),
            "{}",
            verified.said
        );
    }
    written(&json(&other.sign(5, &hash, row.1)));
    assert_eq!(
        verify(&path).await.status,
        Some(1),
        "a valid signature of somebody else"
    );
    let both = audit(
        &[
            ("DATABASE_URL", &database.url),
            ("AUDIT_CHECKPOINT_DIR", &directory),
        ],
        &["verify", "--key", &path, "--key", &other_path],
    )
    .await;
    assert_eq!(both.status, Some(0), "{}", both.said);
}

/// A key as OpenSSL makes it, and its public half.
#[test]
fn a_key_made_by_openssl_is_a_key() {
    let folder = Folder::new();
    let (private, public) = (folder.path("private.pem"), folder.path("public.pem"));
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).output();
        made.is_ok_and(|made| made.status.success())
    };
    let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
    assert!(
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", private]),
        "openssl is there"
    );
    assert!(openssl(&["pkey", "-in", private, "-pubout", "-out", public]));
    let key = SigningKey::read(Path::new(private)).unwrap();
    let checkpoint = key.sign(1, &[7; 32], chrono::DateTime::UNIX_EPOCH);
    for path in [private, public] {
        let keys = featbit_tokens::audit::VerifyingKeys::read([Path::new(path)]).unwrap();
        assert!(keys.have_signed(&checkpoint));
    }
    // What is signed is what the API's document says is signed.
    let message = folder.write(
        "message",
        format!(
            "featbit-tokens checkpoint v1\n1\n{}\n1970-01-01T00:00:00.000000Z\n",
            "07".repeat(32)
        ),
    );
    let signature = folder.write("signature", hex::decode(&checkpoint.signature).unwrap());
    assert!(openssl(&[
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", &message, "-sigfile", &signature
    ]));
}

#[test]
fn a_bad_setting_refuses_the_start_by_its_name() {
    let folder = Folder::new();
    let (_, key) = folder.key("key.pem");
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let public = folder.write("public.pem", public);
    let garbage = folder.write("garbage.pem", b"\xff\x00");
    let directory = folder.path("checkpoints").to_str().unwrap().to_owned();
    let start = |key: &str, directory: &str, interval: &str| {
        let environment = Environment::of_process().with([
            ("DATABASE_URL", "postgres://nowhere".to_owned()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("JWT_KEY", JWT_KEY.to_owned()),
            ("AUDIT_SIGNING_KEY_PATH", key.to_owned()),
            ("AUDIT_CHECKPOINT_DIR", directory.to_owned()),
            ("AUDIT_CHECKPOINT_INTERVAL_SECONDS", interval.to_owned()),
        ]);
        Config::from_environment(&environment)
    };
    assert!(start("", "", "").unwrap().signer.is_none());
    assert!(start(&key, &directory, "86400").unwrap().signer.is_some());
    for (key, directory, interval, named) in [
        (key.as_str(), "", "", "AUDIT_CHECKPOINT_DIR"),
        ("", directory.as_str(), "", "AUDIT_SIGNING_KEY_PATH"),
        ("/nowhere", &directory, "", "AUDIT_SIGNING_KEY_PATH"),
        (&garbage, &directory, "", "AUDIT_SIGNING_KEY_PATH"),
        (&public, &directory, "", "AUDIT_SIGNING_KEY_PATH"),
        (&key, &key, "", "AUDIT_CHECKPOINT_DIR"),
        (&key, &directory, "0", "AUDIT_CHECKPOINT_INTERVAL_SECONDS"),
        (&key, &directory, "86401", "AUDIT_CHECKPOINT_INTERVAL_SECONDS"),
        (&key, &directory, "often", "AUDIT_CHECKPOINT_INTERVAL_SECONDS"),
    ] {
        let Err(error) = start(key, directory, interval) else {
            panic!("{key} {directory} {interval}");
        };
        assert!(error.to_string().starts_with(named), "{error}");
    }
}
