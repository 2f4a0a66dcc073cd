//! Read models rebuilt beside the live ones while nodes go on: switched to, compared, interrupted.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use projections::compare::compare;
use projections::rebuild::{Leftovers, Rebuild, RebuildError};
use projections::replay::{Bounds, Goal, Replay};
use projections::runner::{ReadModel, Runner};
use serde_json::json;
use sqlx::{Executor, PgPool};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Actor, Options, TestApp, TestDatabase, cloud_event, eventually};

const FLAG: &str = "project/web:env/prod:flag/dark-mode";

fn program(database: &TestDatabase, arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"));
    program
        .args(arguments)
        .env("DATABASE_URL", &database.url)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    program
}

async fn run(database: &TestDatabase, arguments: &[&str]) -> (Option<i32>, String) {
    let mut program = program(database, arguments);
    let ended = tokio::task::spawn_blocking(move || program.output().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = ended.await.unwrap();
    assert!(stdout.is_empty(), "nothing but an export goes to standard output");
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// So many more tokens in the log, as if they had been created.
async fn fill(pool: &PgPool, tokens: i64) {
    fill_organizations(pool, tokens, 0).await;
}

/// The same in so many other organizations; in none, in the first token's own.
async fn fill_organizations(pool: &PgPool, tokens: i64, organizations: i64) {
    sqlx::query(
        "with template as (
             select e.*, (select max(position) from events) as head from events e
             where event_type = 'access_token.created' order by position limit 1
         )
         insert into events
         select t.head + n, t.aggregate_type, id, 1, t.event_type, t.event_version,
                (t.payload::jsonb || jsonb_build_object('tokenId', id, 'name', 'filled ' || n, 'organizationId', organization,
                    'digest', encode(sha256(id::text::bytea), 'hex')))::json,
                t.metadata, organization, clock_timestamp(), sha256(id::text::bytea)
         from template t,
              lateral (select n, gen_random_uuid() as id,
                              coalesce(md5((n % nullif($2, 0))::text)::uuid, t.organization_id) as organization
                       from generate_series(1, $1) n) made",
    )
    .bind(tokens)
    .bind(organizations)
    .execute(pool)
    .await
    .unwrap();
}

async fn live_version(pool: &PgPool, name: &str) -> i32 {
    sqlx::query_scalar("select version from read_models where name = $1 and is_live")
        .bind(name)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Creates a token, reads it, finds it in the list, uses it, stops it: every request is answered, and every decision is
/// the one that is due.
async fn use_tokens(app: Arc<TestApp>, actor: Actor, done: Arc<AtomicUsize>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let name = Uuid::new_v4().to_string();
        let (id, secret) = actor.personal_token(&name).await;
        let found = actor.get(&format!("/access-tokens/{id}")).await;
        assert_eq!((found.status, &found.body["data"]["name"]), (200, &json!(name)));
        let listed = actor.get(&format!("/access-tokens?name={name}")).await;
        assert_eq!(
            (listed.status, &listed.body["data"]["totalCount"]),
            (200, &json!(1)),
            "{}",
            listed.text
        );
        assert_eq!(
            app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
            "allowed"
        );
        let stopped = actor
            .put(&format!("/access-tokens/{id}/deactivate"), json!({}))
            .await;
        assert_eq!(stopped.status, 200, "{}", stopped.text);
        assert_eq!(
            app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
            "token_inactive"
        );
        let found = actor.get(&format!("/access-tokens/{id}")).await;
        assert_eq!(
            (found.status, &found.body["data"]["status"]),
            (200, &json!("Inactive"))
        );
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tried: the views not moved by the switch (a node lists what it had before); a runner that keeps the version it began
/// with (what is created after the switch is in no list); the switch without coming level (a token that was listed is gone).
#[tokio::test(flavor = "multi_thread")]
async fn nodes_go_on_while_read_models_are_rebuilt_killed_and_switched() {
    // However slow the machine is.
    let settings = vec![("MAX_STALENESS_MS", "30000".to_owned())];
    let here = TestApp::start_with(Options {
        settings: settings.clone(),
        ..Options::default()
    })
    .await;
    here.owner().personal_token("template").await;
    fill(&here.database.pool, 20_000).await;
    let database = here.database.clone();
    let there = TestApp::start_with(Options {
        database: Some(database.clone()),
        settings,
    })
    .await;
    let (stop, done) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut users = JoinSet::new();
    for app in [Arc::new(here), Arc::new(there)] {
        app.catch_up().await;
        for actor in [app.owner(), app.developer()] {
            users.spawn(use_tokens(
                Arc::clone(&app),
                actor,
                Arc::clone(&done),
                stop.clone(),
            ));
        }
    }
    let mut busy = async |rounds: usize| {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + rounds {
            if let Some(ended) = users.try_join_next() {
                ended.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    busy(4).await;
    let version = live_version(&database.pool, "access_tokens").await;
    for _ in 0..10 {
        let mut replay = program(&database, &["replay", "--all"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At a moment nobody chose, of the two seconds or so that it takes.
        tokio::time::sleep(Duration::from_micros(
            u64::from(Uuid::new_v4().as_fields().1) * 40,
        ))
        .await;
        replay.kill().unwrap();
        replay.wait().unwrap();
        busy(2).await;
    }
    for _ in 0..3 {
        let (status, said) = run(&database, &["replay", "--all"]).await;
        assert_eq!(status, Some(0), "{said}");
        busy(4).await;
    }
    assert!(live_version(&database.pool, "access_tokens").await >= version + 3);
    let (status, said) = run(&database, &["replay", "--verify"]).await;
    assert_eq!(status, Some(0), "{said}");
    stop.cancel();
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) > 30, "there was load");
    let left: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname ~ '_v[0-9]+$'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(
        left,
        i64::try_from(ReadModel::ALL.len()).unwrap(),
        "what was replaced is dropped"
    );
}

/// Tables, keys and indexes, by what makes them, whatever the version.
async fn made_of(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select regexp_replace(indexdef, '_v[0-9]+\\.', '.') from pg_indexes where schemaname ~ '_v[0-9]+$'
         union all
         select concat_ws(' ', table_name, column_name, data_type, is_nullable) from information_schema.columns
         where table_schema ~ '_v[0-9]+$'
         order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Tried: without making the indexes for readers; without the outer join of one side (a missing row is not seen); with `except` of the keys alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_changed_by_hand_is_named_and_a_replay_mends_it() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let mut ids = Vec::new();
    for name in ["renamed", "stolen", "lost", "good"] {
        ids.push(owner.personal_token(name).await.0);
    }
    owner.get("/access-tokens").await;
    let (status, said) = run(&app.database, &["replay", "--verify"]).await;
    assert_eq!(status, Some(0), "{said}");
    let pool = &app.database.pool;
    for (sql, id) in [
        (
            "update access_tokens_v1.access_tokens set name = 'other' where id::text = $1",
            &ids[0],
        ),
        (
            "update access_tokens_v1.access_tokens set digest = sha256('') where id::text = $1",
            &ids[1],
        ),
        (
            "delete from access_tokens_v1.access_tokens where id::text = $1",
            &ids[2],
        ),
        (
            "insert into members_v1.members
             select gen_random_uuid(), $1::uuid, true, false, 1, 1, state from members_v1.members limit 1",
            &ids[3],
        ),
    ] {
        let changed = sqlx::query(sql).bind(id).execute(pool).await.unwrap();
        assert_eq!(changed.rows_affected(), 1);
    }
    let (status, said) = run(&app.database, &["replay", "--verify"]).await;
    assert_eq!(status, Some(1), "{said}");
    let line = |id: &str| {
        said.lines()
            .find(|line| line.contains(id))
            .unwrap_or_else(|| panic!("{id}: {said}"))
    };
    assert!(
        line(&ids[0]).ends_with(r#"name is "other", a replay makes it "renamed""#),
        "{said}"
    );
    assert!(line(&ids[1]).ends_with("digest is another one"), "{said}");
    assert!(line(&ids[2]).ends_with("the row is missing"), "{said}");
    assert!(line(&ids[3]).ends_with("a replay makes no such row"), "{said}");
    assert!(
        said.contains("featbit-tokens: 4 rows differ from a replay"),
        "{said}"
    );

    let before = made_of(pool).await;
    let (status, said) = run(&app.database, &["replay", "access_tokens", "members"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(
        made_of(pool).await,
        before,
        "the new tables are made as the old ones"
    );
    let (status, said) = run(&app.database, &["replay", "--verify"]).await;
    assert_eq!(status, Some(0), "{said}");
    let listed = owner.get("/access-tokens").await;
    assert_eq!(listed.body["data"]["totalCount"], 4);
}

/// Tried: without `is_live` in the compare-and-set, the step moves the version before, and says it is further than it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_under_way_when_the_switch_comes_writes_nothing() {
    let app = TestApp::start().await;
    app.owner().personal_token("template").await;
    let database = app.database.clone();
    app.stop().await;
    let pool = &database.pool;
    let runner = Runner::live(pool.clone(), ReadModel::AccessTokens);
    runner.catch_up().await.unwrap();
    let rebuild = Rebuild::begin(pool.clone(), ReadModel::AccessTokens, Leftovers::Resume)
        .await
        .unwrap();
    let mut replay = Replay::of(pool.clone(), vec![rebuild], Goal::End).await.unwrap();
    while replay.step().await.unwrap() {}
    let level = replay.position();
    fill(pool, 1).await;

    let mut switch = pool.begin().await.unwrap();
    switch
        .execute("select from read_models where name = 'access_tokens' and is_live for update")
        .await
        .unwrap();
    let stepping = tokio::spawn(async move { runner.step().await.unwrap() });
    eventually("the step waits", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like 'update read_models%'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    for version in [1, 2] {
        let flip = format!(
            "update read_models set is_live = not is_live where name = 'access_tokens' and version = {version}"
        );
        switch.execute(flip.as_str()).await.unwrap();
    }
    switch.commit().await.unwrap();

    assert_eq!(stepping.await.unwrap(), level, "it has not moved");
    let positions: Vec<i64> =
        sqlx::query_scalar("select position from read_models where name = 'access_tokens'")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(positions, [level, level], "neither version");
    let runner = Runner::live(pool.clone(), ReadModel::AccessTokens);
    assert_eq!(runner.step().await.unwrap(), level + 1);
    let rows: i64 = sqlx::query_scalar("select count(*) from access_tokens_v2.access_tokens")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 2, "the next step writes the version that is live now");
}

/// Of each of so many, as a replay of all read models finds it.
async fn begin_all(pool: &PgPool, leftovers: Leftovers) -> Result<Vec<Rebuild>, RebuildError> {
    let mut rebuilds = Vec::new();
    for read_model in ReadModel::ALL {
        rebuilds.push(Rebuild::begin(pool.clone(), read_model, leftovers).await?);
    }
    Ok(rebuilds)
}

/// Few events at a time, so that there is something to interrupt.
const FEW: Bounds = Bounds {
    together: 100,
    of_one: 100_000,
    rest: 100,
    bytes: 1_000_000,
};

/// Tried: with `Leftovers` never resumed, it starts at 0; without the revision, it goes on with another projector's rows;
/// without the last complete organization taken for the beginning, rows are made twice, which the keys refuse.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_is_gone_on_with_where_the_same_projector_made_it() {
    let app = TestApp::start().await;
    app.owner().personal_token("template").await;
    let pool = app.database.pool.clone();
    app.stop().await;
    fill_organizations(&pool, 12_000, 40).await;
    let begin = || Rebuild::begin(pool.clone(), ReadModel::AccessTokens, Leftovers::Resume);
    let before = live_version(&pool, "access_tokens").await;
    let head: i64 = sqlx::query_scalar("select max(position) from events")
        .fetch_one(&pool)
        .await
        .unwrap();
    let replayed = async |rebuild: Rebuild| {
        let replay = Replay::of(pool.clone(), vec![rebuild], Goal::End).await.unwrap();
        let mut replay = replay.within(FEW);
        replay.step().await.unwrap();
        replay
    };

    let mut replay = replayed(begin().await.unwrap()).await;
    while replay.position() == 0 {
        assert!(replay.step().await.unwrap());
    }
    let reached = replay.position();
    assert!(reached < head, "it is not through: {reached}");
    assert!(
        matches!(begin().await, Err(RebuildError::Busy("access_tokens"))),
        "one at a time"
    );
    drop(replay);
    assert_eq!(live_version(&pool, "access_tokens").await, before);

    let resumed = eventually("its lock is gone with it", async || begin().await.ok()).await;
    let version = resumed.version();
    let mut replay = replayed(resumed).await;
    assert_eq!(replay.position(), reached);
    while replay.step().await.unwrap() {}
    assert_eq!(replay.position(), head);
    drop(replay);
    let resumed = eventually("its lock is gone with it", async || begin().await.ok()).await;
    assert_eq!(
        (resumed.version(), resumed.position().await.unwrap()),
        (version, head)
    );
    let rows: i64 = sqlx::query_scalar(&format!(
        "select count(*) from {}.access_tokens",
        resumed.schema()
    ))
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(rows, 12_001);
    drop(resumed);

    sqlx::query("update read_models set revision = revision + 1 where not is_live")
        .execute(&pool)
        .await
        .unwrap();
    let anew = eventually("its lock is gone with it", async || begin().await.ok()).await;
    let mut replay = replayed(anew).await;
    assert_eq!(replay.position(), 0);
    while replay.step().await.unwrap() {}
    for rebuild in replay.into_rebuilds() {
        assert_eq!(rebuild.switch().await.unwrap().position, head, "all of the log");
    }
}

/// What the live loop makes of the log event after event, a replay makes of it organization after organization, however these
/// are divided. Tried: each of the two organizations' events taken by the other's bounds (`self.rest` kept at its end); rows
/// of the rest written as new ones; an organization's removal left out of `apply`, of tokens and of members; in a page that
/// goes on with an organization, its beginning taken for a new one; JSON compared as text.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_however_the_log_is_divided() {
    let app = TestApp::start().await;
    let (owner, developer, stranger) = (app.owner(), app.developer(), app.stranger());
    let tell = async |kind: &str, actor: &Actor, organization, data| {
        let event = cloud_event(kind, organization, actor.member_id, data);
        app.tell(&[event]).await;
    };
    for nth in 0..3 {
        let (id, _) = developer.personal_token(&format!("personal {nth}")).await;
        let (other, _) = owner
            .service_token(
                &format!("service {nth}"),
                "ToggleFlag",
                "project/web:env/prod:flag/*",
            )
            .await;
        stranger.personal_token(&format!("theirs {nth}")).await;
        owner
            .post(
                &format!("/access-tokens/{other}/rotate"),
                json!({ "overlapSeconds": 60 }),
            )
            .await;
        owner.delete(&format!("/access-tokens/{other}")).await;
        developer
            .put(&format!("/access-tokens/{id}/deactivate"), json!({}))
            .await;
        tell(
            "PermissionRevoked",
            &developer,
            app.organization_id,
            json!({ "permission": "DeleteFlag" }),
        )
        .await;
    }
    let statement = json!({ "id": "by name", "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"],
                            "resources": ["project/web:env/prod:flag/*"] });
    let body = json!({ "name": "named", "type": "Service", "permissions": [statement] });
    owner.token(body).await;
    developer.personal_token("active").await;
    tell("MemberRemoved", &developer, app.organization_id, json!({})).await;
    let event = cloud_event(
        "OrganizationRemoved",
        stranger.organization_id,
        stranger.member_id,
        json!({}),
    );
    app.tell(&[event]).await;
    owner.personal_token("after").await;
    app.catch_up().await;
    let pool = app.database.pool.clone();
    app.stop().await;
    for read_model in ReadModel::ALL {
        Runner::live(pool.clone(), read_model).catch_up().await.unwrap();
    }
    // As another version of the service would have written it.
    pool.execute("update credentials_v1.creators set state = (' ' || state::text)::json")
        .await
        .unwrap();
    for (together, of_one, rest, bytes) in [
        (1, 1_000, 1, 1_000_000),
        (1_000, 1, 1, 1_000_000),
        (7, 3, 2, 1_000_000),
        (2, 5, 100, 1_000_000),
        (1_000, 1_000, 1_000, 1),
        (1_000, 1_000, 1_000, 2_000),
        (1_000, 1_000, 1_000, 1_000_000),
    ] {
        let rebuilds = eventually("locks are gone with the last", async || {
            begin_all(&pool, Leftovers::Discard).await.ok()
        })
        .await;
        let bounds = Bounds {
            together,
            of_one,
            rest,
            bytes,
        };
        let mut replay = Replay::of(pool.clone(), rebuilds, Goal::End)
            .await
            .unwrap()
            .within(bounds);
        while replay.step().await.unwrap() {}
        for rebuild in replay.into_rebuilds() {
            let comparison = compare(&rebuild, 10).await.unwrap();
            assert_eq!(
                comparison.differing, 0,
                "{bounds:?}: {:#?}",
                comparison.differences
            );
            rebuild.discard().await.unwrap();
        }
    }
}

/// Tried: verified up to the end of the log, it finds no moment at which both are level; with `Leftovers::Discard`, what was
/// interrupted is begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_that_stands_still_is_verified_where_it_stands() {
    let app = TestApp::start().await;
    app.owner().personal_token("template").await;
    app.catch_up().await;
    let database = app.database.clone();
    let pool = database.pool.clone();
    app.stop().await;
    let stands = Runner::live(pool.clone(), ReadModel::AccessTokens)
        .catch_up()
        .await
        .unwrap();
    fill_organizations(&pool, 3_000, 10).await;
    let rebuild = Rebuild::begin(pool.clone(), ReadModel::AccessTokens, Leftovers::Resume)
        .await
        .unwrap();
    let version = rebuild.version();
    let mut replay = Replay::of(pool.clone(), vec![rebuild], Goal::End)
        .await
        .unwrap()
        .within(FEW);
    while replay.position() == 0 {
        assert!(replay.step().await.unwrap());
    }
    let reached = replay.position();
    drop(replay);

    let verified = eventually("its lock is gone with it", async || {
        let (status, said) = run(&database, &["replay", "--verify"]).await;
        (!said.contains("another replay")).then_some((status, said))
    })
    .await;
    let (status, said) = verified;
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains(&format!("access_tokens: equal to a replay at position {stands}")),
        "{said}"
    );

    let resumed = eventually("its lock is gone with it", async || {
        Rebuild::begin(pool.clone(), ReadModel::AccessTokens, Leftovers::Resume)
            .await
            .ok()
    })
    .await;
    assert_eq!(resumed.version(), version, "what was interrupted is still there");
    let mut replay = Replay::of(pool.clone(), vec![resumed], Goal::End).await.unwrap();
    replay.step().await.unwrap();
    assert_eq!(replay.position(), reached);
}

/// Tried: with the error handed on, it exits 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_a_success_though_the_tables_before_are_left_behind() {
    let database = TestDatabase::new().await;
    database
        .pool
        .execute(
            "create function refuse() returns event_trigger language plpgsql as $$ begin raise 'not now'; end $$;
             create event trigger no_drops on sql_drop execute function refuse()",
        )
        .await
        .unwrap();
    let (status, said) = run(&database, &["replay", "members"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("members: version 2 is live")
            && said.contains("the tables of the version before are still there"),
        "{said}"
    );
    database
        .pool
        .execute("drop event trigger no_drops")
        .await
        .unwrap();
    let (status, said) = run(&database, &["replay", "members"]).await;
    assert_eq!(status, Some(0), "{said}");
    let schemas: Vec<String> =
        sqlx::query_scalar("select nspname::text from pg_namespace where nspname like 'members_v%'")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert_eq!(schemas, ["members_v3"]);
}

/// Tried: without the count of positions; without looking at what an event is filed under.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_stops_at_what_is_missing_or_filed_wrongly() {
    let app = TestApp::start().await;
    for name in ["one", "two", "three"] {
        app.owner().personal_token(name).await;
    }
    let database = app.database.clone();
    app.stop().await;
    let head: i64 = sqlx::query_scalar("select max(position) from events")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    for (tampering, words) in [
        (
            format!("update events set organization_id = gen_random_uuid() where position = {head}"),
            format!("the event at position {head} is filed under another organization"),
        ),
        (
            format!("delete from events where position = {}", head - 1),
            format!(
                "position {} is missing from the log: the next one is {head}",
                head - 1
            ),
        ),
    ] {
        let sql = format!("alter table events disable trigger all; {tampering}");
        database.pool.execute(sql.as_str()).await.unwrap();
        let (status, said) = run(&database, &["replay", "--all"]).await;
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(&words), "{said}");
        assert_eq!(live_version(&database.pool, "access_tokens").await, 1);
    }
}

/// Tried: without the grants.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_use_the_live_tables_may_use_those_that_replace_them() {
    let database = TestDatabase::new().await;
    let role = format!("lesser_{}", Uuid::new_v4().simple());
    database
        .pool
        .execute(
            format!(
                "create role {role}; grant usage on schema members_v1 to {role};
                 grant select, insert on members_v1.members to {role}; grant select on members to {role}"
            )
            .as_str(),
        )
        .await
        .unwrap();
    let (status, said) = run(&database, &["replay", "members"]).await;
    assert_eq!(status, Some(0), "{said}");
    for (privilege, expected) in [("select", true), ("insert", true), ("delete", false)] {
        let may: bool = sqlx::query_scalar(
            "select has_schema_privilege($1, 'members_v2', 'usage') and has_table_privilege($1, 'members_v2.members', $2)",
        )
        .bind(&role)
        .bind(privilege)
        .fetch_one(&database.pool)
        .await
        .unwrap();
        assert_eq!(may, expected, "{privilege}");
    }
    let drop_role = format!("drop owned by {role}; drop role {role}");
    database.pool.execute(drop_role.as_str()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_what_it_can_not_do() {
    let database = TestDatabase::new().await;
    for (arguments, status, words) in [
        (&["replay"][..], 2, "required arguments"),
        (&["replay", "flags"], 2, "there are: access_tokens, members"),
        (&["replay", "members", "--all"], 2, "cannot be used with"),
    ] {
        let (code, said) = run(&database, arguments).await;
        assert_eq!(code, Some(status), "{said}");
        assert!(said.contains(words), "{said}");
    }
    sqlx::query(
        "insert into events values (1, 'access_token', 'x', 1, 'access_token.painted', '1.0.0',
             '{\"event\":\"access_token.painted\"}', '{}', gen_random_uuid(), now(), sha256(''))",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let (code, said) = run(&database, &["replay", "--all"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the event at position 1 can't be read by this version: access_token.painted"),
        "{said}"
    );
    assert_eq!(live_version(&database.pool, "access_tokens").await, 1);
}

/// Whoever has the connection next would take the answer to the `COPY` for its own. Tried: with the connection given back to
/// its pool by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_given_up_leaves_no_answer_behind() {
    let app = TestApp::start().await;
    app.owner().personal_token("one").await;
    app.catch_up().await;
    let database = app.database.clone();
    app.stop().await;
    let again = "update read_models set position = 0 where name = 'access_tokens';
                 truncate access_tokens_v1.access_tokens;
                 create function slow() returns trigger language plpgsql as
                     $$ begin perform pg_sleep(1); return new; end $$;
                 create trigger slow before insert on access_tokens_v1.access_tokens for each row execute function slow();";
    database.pool.execute(again).await.unwrap();
    let only = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let only = only.connect(&database.url).await.unwrap();
    let runner = Runner::live(only.clone(), ReadModel::AccessTokens);
    let given_up = tokio::time::timeout(Duration::from_millis(300), runner.step()).await;
    assert!(given_up.is_err(), "it takes a second: {given_up:?}");
    for number in 0..5 {
        let mut transaction = only.begin().await.unwrap();
        let answer: i32 = sqlx::query_scalar("select $1::int")
            .bind(number)
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        assert_eq!(answer, number);
        transaction.commit().await.unwrap();
    }
    runner.step().await.unwrap();
}
