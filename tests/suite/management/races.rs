//! A permission that goes between a command's decision and its commit. The test holds the log's lock, so the command
//! decides and then waits for its append; in the same transaction the membership event is appended; then both go on, in
//! this order. Tried, for all of these: streams without events left out of the request in `UnitOfWork::request`.

use std::collections::HashMap;
use std::sync::Arc;

use domain::access_token::{TokenName, TokenType};
use domain::member::{Member, MemberChange, MemberCommand, MembershipFact};
use domain::policy::{Action, Revocation, Statement, built_in};
use featbit_tokens::commands::issuing::NewToken;
use featbit_tokens::commands::{Caller, CommandError, KnownMember};
use featbit_tokens::log::{AppendOutcome, Appender, TokenCount, UnitOfWork};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

/// What `append_to_log` locks, in migrations/0001_log.sql.
const LOG_LOCK: i64 = 7_305_808_869_231_650_131;

/// Somebody who is ahead of every append of every node: one connection, in a transaction that holds the lock.
struct Ahead {
    connection: PgPool,
    appender: Appender,
    stop: CancellationToken,
    appending: JoinHandle<()>,
}

impl Ahead {
    async fn of(app: &TestApp) -> Self {
        let connection = PgPoolOptions::new()
            .max_connections(1)
            .connect(&app.database.url)
            .await
            .unwrap();
        connection.execute("begin").await.unwrap();
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(LOG_LOCK)
            .execute(&connection)
            .await
            .unwrap();
        let (appender, task) = Appender::new(connection.clone());
        let stop = CancellationToken::new();
        let appending = tokio::spawn(task.run(stop.clone()));
        Self {
            connection,
            appender,
            stop,
            appending,
        }
    }

    /// Appends what has happened to a member, by the service's own code, and lets everybody else go on.
    async fn commit(self, member: &Actor, facts: Vec<MembershipFact>) {
        let metadata = HashMap::from([("actor".to_owned(), "intake".to_owned())]);
        let unit = UnitOfWork::new(self.connection.clone(), Uuid::new_v4(), metadata);
        let (organization_id, member_id) = (member.organization_id, member.member_id);
        for fact in facts {
            let change = MemberChange::Membership { version: None, fact };
            let command = MemberCommand {
                organization_id,
                member_id,
                change,
            };
            unit.execute::<Member>(&Member::stream_id(organization_id, member_id), command)
                .await
                .unwrap()
                .unwrap();
        }
        let outcome = self.appender.append(unit.request()).await.unwrap();
        assert!(
            matches!(outcome, AppendOutcome::Appended { last: Some(_) }),
            "{outcome:?}"
        );
        // It keeps the connection for as long as it runs.
        self.stop.cancel();
        self.appending.await.unwrap();
        self.connection.execute("commit").await.unwrap();
    }
}

/// How many appends wait for the lock.
async fn waiting_appends(app: &TestApp) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_locks join pg_database on pg_database.oid = database
         where locktype = 'advisory' and not granted and datname = current_database()",
    )
    .fetch_one(&app.database.pool)
    .await
    .unwrap()
}

/// What a command is answered that has decided before all this happened to a member, and commits after it.
async fn overtaken(
    app: &TestApp,
    command: reqwest::RequestBuilder,
    member: &Actor,
    facts: Vec<MembershipFact>,
) -> Answer {
    let ahead = Ahead::of(app).await;
    assert_eq!(waiting_appends(app).await, 0);
    let command = tokio::spawn(Answer::of(command));
    eventually("the command has decided, and its append waits", async || {
        (waiting_appends(app).await == 1).then_some(())
    })
    .await;
    assert!(!command.is_finished());
    ahead.commit(member, facts).await;
    command.await.unwrap()
}

fn put(actor: &Actor, path: &str, body: Value) -> reqwest::RequestBuilder {
    actor.request(Method::PUT, path).json(&body)
}

fn revoked(action: &str) -> MembershipFact {
    MembershipFact::Revoked(Revocation {
        permission: Action::new(action),
        resources: None,
    })
}

fn assert_forbidden(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, &answer.body),
        (403, &errors(&["Forbidden"])),
        "{what}"
    );
}

async fn token_events(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from events where aggregate_type = 'access_token'")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

/// The test of the tests below: where nothing is taken, the same command goes on as it decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waited_for_its_append_stands_where_nothing_was_taken_from_its_caller() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let body = json!({ "name": "bot", "type": "Service", "permissions": [allow("ToggleFlag", FLAG)] });
    let create = developer.request(Method::POST, "/access-tokens").json(&body);
    let answer = overtaken(&app, create, &app.nobody(), vec![revoked("ToggleFlag")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    log_is_whole(&app.database.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_does_not_outlive_a_ceiling_lowered_between_decision_and_commit() {
    let app = TestApp::start().await;
    let developer = app.developer();
    for (action, taken) in [
        ("ToggleFlag", "ToggleFlag"),
        ("UpdateFlagName", "ManageServiceAccessTokens"),
    ] {
        let body = json!({ "name": "bot", "type": "Service", "permissions": [allow(action, FLAG)] });
        let create = developer.request(Method::POST, "/access-tokens").json(&body);
        let answer = overtaken(&app, create, &developer, vec![revoked(taken)]).await;
        assert_forbidden(&answer, taken);
        assert_eq!(token_events(&app).await, 0, "{taken}");
        let used = app.owner().get("/access-tokens/is-name-used?name=bot").await;
        assert_eq!(used.body["data"], false, "nor is its name reserved");
    }
    log_is_whole(&app.database.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_is_not_armed_by_a_permission_taken_between_decision_and_commit() {
    let app = TestApp::start().await;
    let soon = Utc::now() + TimeDelta::days(10);
    for (what, body) in [
        ("/activate", json!({})),
        ("/toggle", json!({})),
        ("", json!({ "name": "bot", "expiresAt": null })),
    ] {
        let member = member_who_may(
            &app,
            &[
                ("ManageServiceAccessTokens", "access-token/*"),
                ("ToggleFlag", FLAGS),
            ],
        )
        .await;
        let new = json!({ "name": "bot", "type": "Service", "permissions": [allow("ToggleFlag", FLAG)],
                          "expiresAt": soon });
        let (id, secret) = app.owner().token(new).await;
        if !what.is_empty() {
            app.owner()
                .put(&format!("{}/deactivate", at(&id)), json!({}))
                .await;
        }
        let before = token_events(&app).await;
        let arm = put(&member, &format!("{}{what}", at(&id)), body);
        let answer = overtaken(&app, arm, &member, vec![revoked("ToggleFlag")]).await;
        assert_forbidden(&answer, what);
        assert_eq!(token_events(&app).await, before, "{what}");
        app.catch_up().await;
        let decision = app.ask(&secret, "ToggleFlag", FLAG).await;
        assert_eq!(decision["decision"], what.is_empty(), "{what}: {decision}");
        assert_eq!(app.owner().delete(&at(&id)).await.status, 200);
    }
    log_is_whole(&app.database.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_removed_between_decision_and_commit_makes_no_personal_token() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let create = developer
        .request(Method::POST, "/access-tokens")
        .json(&json!({ "name": "mine", "type": "Personal" }));
    let answer = overtaken(&app, create, &developer, vec![MembershipFact::Removed]).await;
    assert_forbidden(&answer, "create");
    assert_eq!(token_events(&app).await, 0);
    log_is_whole(&app.database.pool).await;
}

/// Its creator, removed and added again, is another membership: what was decided under the first one does not stand.
#[tokio::test(flavor = "multi_thread")]
async fn a_personal_token_is_not_activated_under_a_membership_that_has_ended_meanwhile() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (id, secret) = developer.personal_token("mine").await;
    let activate = || put(&developer, &format!("{}/activate", at(&id)), json!({}));
    let back_with =
        |statements: Vec<Statement>| vec![MembershipFact::Removed, MembershipFact::Added { statements }];
    assert_eq!(
        developer
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    let before = token_events(&app).await;

    // Without permission it may not any more.
    let answer = overtaken(&app, activate(), &developer, back_with(Vec::new())).await;
    assert_forbidden(&answer, "activate");
    assert_eq!(token_events(&app).await, before);

    // With permission it may, and the token belongs to the membership in which that was decided: the third.
    add(&app, developer.member_id, json!(built_in::developer())).await;
    let answer = overtaken(&app, activate(), &developer, back_with(built_in::developer())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let activated: Vec<i64> = sqlx::query_scalar(
        "select (payload->>'membershipNumber')::bigint from events where event_type = 'access_token.activated'",
    )
    .fetch_all(&app.database.pool)
    .await
    .unwrap();
    assert_eq!(activated, [3]);
    app.catch_up().await;
    assert_eq!(app.ask(&secret, "ToggleFlag", FLAG).await["decision"], true);
    log_is_whole(&app.database.pool).await;
}

/// What a node believes of its caller may be old, or wrong: with a later event unheard, or an earlier one; and how many tokens
/// its organization has. It makes a first attempt, and decides nothing. Tried: `rest_on` without a guard (the forged owner gets
/// its token); a refusal by what is presumed, of either (the owner is refused).
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_believes_of_its_caller_neither_permits_nor_refuses_anything() {
    let app = TestApp::start().await;
    let new = |name: &str| NewToken {
        name: TokenName::parse(name).unwrap(),
        token_type: TokenType::Service,
        statements: built_in::owner(),
        description: None,
        expires_at: None,
        allowed_ips: Vec::new(),
    };
    let (owner, nobody) = (app.owner(), app.nobody());
    let believed = |actor: &Actor, member: Member, sequence: i64| Caller {
        organization_id: actor.organization_id,
        member_id: actor.member_id,
        request_id: "test".to_owned(),
        known: Some(KnownMember {
            member: Arc::new(member),
            sequence,
        }),
    };
    let (as_owner, _) = app
        .app
        .index
        .member(owner.organization_id, owner.member_id)
        .unwrap();
    let as_of = app.app.index.position();
    for (sequence, tokens) in [(0, 0), (2, 2000), (7, 1_000_000)] {
        let count = TokenCount { tokens, as_of };
        let create = async |caller: Caller, new: NewToken| {
            app.app.commands.create_token(&caller, &new, count, None).await
        };
        let answer = create(
            believed(&nobody, Member::clone(&as_owner), sequence),
            new("forged"),
        )
        .await;
        assert!(matches!(answer, Err(CommandError::Forbidden)), "{answer:?}");

        let unheard = believed(&owner, Member::default(), sequence);
        let answer = create(unheard, new(&format!("token {sequence}"))).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}
