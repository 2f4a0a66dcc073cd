//! The organization's audit log: `GET /audit-logs`.

use std::collections::BTreeMap;

use domain::secret::Secret;
use sqlx::Row;

use super::*;

async fn audit(actor: &Actor, query: &str) -> Value {
    let answer = actor.get(&format!("/audit-logs{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    answer.body["data"].clone()
}

fn positions(page: &Value) -> Vec<i64> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| item["position"].as_i64().unwrap()).collect()
}

fn events(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|item| item["event"].as_str().unwrap().to_owned())
        .collect()
}

/// The organization's positions in the table, newest first.
async fn recorded(app: &TestApp, organization_id: domain::ids::OrganizationId) -> Vec<i64> {
    sqlx::query_scalar("select position from events where organization_id = $1 order by position desc")
        .bind(organization_id.as_uuid())
        .fetch_all(&app.database.pool)
        .await
        .unwrap()
}

async fn grant(app: &TestApp, member_id: MemberId, times: usize) {
    let granted: Vec<Value> = (0..times)
        .map(|_| {
            let data = json!({ "statements": [] });
            cloud_event("PermissionGranted", app.organization_id, member_id, data)
        })
        .collect();
    app.tell(&granted).await;
}

/// Tried: `known.must(may_audit)` taken out; `may_list` in its place.
#[tokio::test(flavor = "multi_thread")]
async fn who_manages_iam_may_read_it_and_nobody_else() {
    let app = TestApp::start().await;
    let secret = app.owner().service_token("bot", "ToggleFlag", FLAG).await.1;
    let warden = member_who_may(&app, &[("CanManageIAM", "iam/*")]).await;
    let elsewhere = member_who_may(&app, &[("CanManageIAM", "access-token/*")]).await;
    let token = app.with_authorization(app.organization_id, app.owner().member_id, &secret);
    let no_jwt = app.with_authorization(app.organization_id, app.owner().member_id, "Bearer nonsense");
    for (nth, (actor, status, code)) in [
        (app.owner(), 200, ""),
        (app.administrator(), 200, ""),
        (warden, 200, ""),
        (app.stranger(), 200, ""),
        (app.developer(), 403, "Forbidden"),
        (elsewhere, 403, "Forbidden"),
        (app.nobody(), 403, "Forbidden"),
        (app.intruder(), 403, "Forbidden"),
        (token, 403, "Forbidden"),
        (no_jwt, 401, "Unauthorized"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = actor.get("/audit-logs").await;
        assert_eq!((answer.status, answer.code()), (status, code), "actor {nth}");
        let garbage = actor.get("/audit-logs?pageSize=0").await;
        let expected = if status == 200 { 400 } else { status };
        assert_eq!(garbage.status, expected, "who may not ask is told nothing else");
    }
    let nobody = Answer::of(app.request(Method::GET, "/api/v1/audit-logs")).await;
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (401, "Bearer")
    );
}

/// Tried: without `organization_id` in the query.
#[tokio::test(flavor = "multi_thread")]
async fn it_holds_every_event_of_the_organization_and_none_of_another() {
    let app = TestApp::start().await;
    let (owner, stranger) = (app.owner(), app.stranger());
    owner.personal_token("ours").await;
    stranger.personal_token("theirs").await;
    for actor in [owner, stranger] {
        let page = audit(&actor, "?pageSize=100").await;
        let expected = recorded(&app, actor.organization_id).await;
        assert_eq!(positions(&page), expected);
        assert_eq!(page["totalCount"], expected.len());
    }
    let theirs = audit(&app.owner(), "?query=theirs").await;
    assert_eq!(theirs["totalCount"], 0);
}

/// Tried: the hash's second half for the id; without the version's bits; `digest` left in `data`.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_says_what_happened_to_what_by_whom_and_when() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, secret) = owner.personal_token("mine").await;
    let answer = owner.get("/audit-logs?pageSize=1").await;
    let item = &answer.body["data"]["items"][0];
    let row = sqlx::query("select position, hash, recorded_at from events order by position desc limit 1")
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    let mut bytes: [u8; 16] = row.get::<Vec<u8>, _>("hash")[..16].try_into().unwrap();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    assert_eq!(item["id"], json!(Uuid::from_bytes(bytes)));
    assert_eq!(item["position"], row.get::<i64, _>("position"));
    assert_eq!(item["time"], json!(row.get::<DateTime<Utc>, _>("recorded_at")));
    assert_eq!(item["refType"], "access_token");
    assert_eq!(item["refId"], id);
    assert_eq!(item["event"], "access_token.created");
    assert_eq!(item["actor"], format!("member:{}", owner.member_id));
    assert_eq!(item["data"]["name"], "mine");
    for hidden in ["event", "digest"] {
        assert!(item["data"].get(hidden).is_none(), "{hidden}");
    }
    let digest = hex::encode(Secret::parse(&secret).unwrap().digest().as_bytes());
    assert!(!answer.text.contains(&secret) && !answer.text.contains(&digest));
    let keys = [
        "position", "id", "refType", "refId", "event", "actor", "time", "data", "text",
    ];
    let (_, items) = answer.text.split_once("\"items\":").unwrap();
    let places = keys.map(|key| items.find(&format!("\"{key}\":")).unwrap());
    assert!(places.is_sorted(), "in this order: {}", answer.text);
    let history = owner.get(&format!("{}/history", at(&id))).await;
    for same in ["position", "event", "actor", "time", "data"] {
        assert_eq!(history.body["data"]["items"][0][same], item[same], "{same}");
    }

    grant(&app, app.nobody().member_id, 1).await;
    let item = audit(&owner, "?pageSize=1").await["items"][0].clone();
    assert_eq!(
        (&item["refType"], &item["actor"]),
        (&json!("member"), &json!("intake"))
    );
    assert_eq!(item["refId"], json!(app.nobody().member_id));

    let nobody = Uuid::nil().into();
    let mut removed = cloud_event("OrganizationRemoved", app.organization_id, nobody, json!({}));
    removed["data"].as_object_mut().unwrap().remove("memberId");
    app.tell(&[removed]).await;
    let all = json!([{ "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] }]);
    add(&app, owner.member_id, all).await;
    let item = audit(&owner, "?type=organization").await["items"][0].clone();
    assert_eq!(item["event"], "organization.removed");
    assert_eq!(item["refId"], json!(app.organization_id));
}

/// Tried: each condition of the query taken out, one by one or two by two; `folded` without `lower`.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_filtered_by_every_filter_that_is_not_empty() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = owner.personal_token(r#"Größe "50%" \ x"#).await;
    developer.personal_token("other").await;
    owner.put(&format!("{}/deactivate", at(&id)), json!({})).await;
    let org = app.organization_id;
    let mine = ["access_token.deactivated", "access_token.created"];
    let created = ["access_token.created", "access_token.created"];
    let added = ["member.added"; 4];
    let with = |name: &str, id: &dyn std::fmt::Display| format!("?{name}={id}");
    for (query, expected) in [
        (
            "?query=&actorId=&type=&refId=&from=&to=&after=&pageSize=&type=access_token".to_owned(),
            [
                "access_token.deactivated",
                "access_token.created",
                "access_token.created",
            ]
            .as_slice(),
        ),
        ("?type=member".to_owned(), &added),
        ("?type=Member".to_owned(), &[]),
        ("?type=nonsense".to_owned(), &[]),
        ("?type=%00".to_owned(), &[]),
        ("?query=CREATED".to_owned(), &created),
        ("?query=access_token.deact".to_owned(), &mine[..1]),
        ("?query=gr%C3%B6%C3%9Fe".to_owned(), &mine[1..]),
        ("?query=50%25".to_owned(), &mine[1..]),
        ("?query=%22name%22:%22gr".to_owned(), &mine[1..]),
        ("?query=%2250%25%22+%5C+x".to_owned(), &mine[1..]),
        ("?query=%25".to_owned(), &mine[1..]),
        ("?query=a_b".to_owned(), &[]),
        ("?query=%00".to_owned(), &[]),
        (with("actorId", &owner.member_id), &mine),
        (with("actorId", &developer.member_id), &created[..1]),
        (with("actorId", &Uuid::nil()), &[]),
        (with("refId", &id), &mine),
        (with("refId", &id.to_uppercase()), &mine),
        (with("REFID", &owner.member_id), &added[..1]),
        (with("refId", &org), &[]),
        (format!("?refId={id}&type=member"), &[]),
        (
            format!("?refId={id}&actorId={}&query=deact", owner.member_id),
            &mine[..1],
        ),
        ("?unknown=1&query=deactivated".to_owned(), &mine[..1]),
    ] {
        let page = audit(&owner, &query).await;
        assert_eq!(events(&page), expected, "{query}");
        assert_eq!(page["totalCount"], expected.len(), "{query}");
    }
}

/// Upper and lower case of letters that are not English, where PostgreSQL has ICU.
#[tokio::test(flavor = "multi_thread")]
async fn case_is_disregarded_in_every_language() {
    let app = TestApp::start().await;
    let has_icu: bool =
        sqlx::query_scalar("select exists (select from pg_collation where collname = 'und-x-icu')")
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
    app.owner().personal_token("ÄPFEL").await;
    let page = audit(&app.owner(), "?query=%C3%A4pfel").await;
    assert_eq!(page["totalCount"], i32::from(has_icu));
}

/// Tried: the payload as it is in place of `without_digests`.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_not_found() {
    let app = TestApp::start().await;
    let owner = app.owner();
    // A description right before the digest in the payload, made to hide where a field begins.
    let hiding = r#"", "digest":"x","digest":["#;
    let body = json!({ "name": "mine", "type": "Personal", "description": hiding });
    let (_, secret) = owner.token(body).await;
    let digest = hex::encode(Secret::parse(&secret).unwrap().digest().as_bytes());
    let payload: String =
        sqlx::query_scalar("select payload::text from events order by position desc limit 1")
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
    assert!(
        payload.contains(&digest),
        "there is something to be found: {payload}"
    );
    for text in [
        &digest,
        &digest[..8],
        &digest.to_uppercase(),
        &format!("%22digest%22:%22{digest}"),
    ] {
        assert_eq!(
            audit(&owner, &format!("?query={text}")).await["totalCount"],
            0,
            "{text}"
        );
    }
    for text in ["mine", "personal", "hint"] {
        assert_eq!(
            events(&audit(&owner, &format!("?query={text}&type=access_token")).await),
            ["access_token.created"],
            "what stands around it is: {text}"
        );
    }
}

/// A digest by whatever name, in whatever event is still to be invented.
#[tokio::test(flavor = "multi_thread")]
async fn no_field_that_is_called_a_digest_is_searched() {
    let app = TestApp::start().await;
    for (payload, expected) in [
        (r#"{"digest":"abc","name":"n"}"#, r#"{,"name":"n"}"#),
        (r#"{"name":"n","previousDigest" : "abc"}"#, r#"{"name":"n",}"#),
        (r#"{"a":{"digests":["abc","def"]},"b":1}"#, r#"{"a":{},"b":1}"#),
        (r#"{"name":"digest","b":"x"}"#, r#"{"name":"digest","b":"x"}"#),
        (
            r#"{"d":"\"digest\":\"","digest":"abc"}"#,
            r#"{"d":"\"digest\":\"",}"#,
        ),
        (
            r#"{"d":"\"digest\":[","digest":"abc"}"#,
            r#"{"d":"\"digest\":[",}"#,
        ),
        (r#"{"digest":"a\"b","c":"x"}"#, r#"{,"c":"x"}"#),
        (r#"{"d":"digest\\","digest":"abc"}"#, r#"{"d":"digest\\",}"#),
    ] {
        let searched: String = sqlx::query_scalar("select without_digests($1)")
            .bind(payload.parse::<Value>().map(|_| payload).unwrap().to_lowercase())
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
        assert_eq!(searched, expected, "{payload}");
    }
}

/// Tried: `<=` for `<` (the last of each page is shown again); `after` in the count.
#[tokio::test(flavor = "multi_thread")]
async fn pages_do_not_shift_while_events_arrive() {
    let app = TestApp::start().await;
    let owner = app.owner();
    grant(&app, app.nobody().member_id, 7).await;
    let expected = recorded(&app, app.organization_id).await;
    let mut seen = Vec::new();
    let mut page = audit(&owner, "?pageSize=4").await;
    while let Some(last) = positions(&page).last() {
        assert!(positions(&page).len() <= 4);
        seen.extend(positions(&page));
        grant(&app, app.nobody().member_id, 3).await;
        page = audit(&owner, &format!("?pageSize=4&after={last}")).await;
        let total = recorded(&app, app.organization_id).await.len();
        assert_eq!(page["totalCount"], total, "everything, whatever `after` is");
    }
    assert_eq!(seen, expected);
}

/// Tried: the microsecond before `from` and those after `to` left out.
#[tokio::test(flavor = "multi_thread")]
async fn from_and_to_are_milliseconds_and_inclusive() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for nth in 0..6 {
        owner.personal_token(&format!("{nth}")).await;
    }
    // One on the very millisecond, which the database's clock would hardly ever say.
    sqlx::query(
        "insert into events
         select position + 1, aggregate_type, gen_random_uuid(), 1, event_type, event_version, payload, metadata,
                organization_id, date_trunc('milliseconds', recorded_at) + interval '2 milliseconds', hash
         from events order by position desc limit 1",
    )
    .execute(&app.database.pool)
    .await
    .unwrap();
    let rows = sqlx::query(
        "select position, recorded_at from events where organization_id = $1 order by position desc",
    )
    .bind(app.organization_id.as_uuid())
    .fetch_all(&app.database.pool)
    .await
    .unwrap();
    let millis: BTreeMap<i64, i64> = rows
        .iter()
        .map(|row| {
            (
                row.get("position"),
                row.get::<DateTime<Utc>, _>("recorded_at").timestamp_millis(),
            )
        })
        .collect();
    let within = |from: i64, to: i64| -> Vec<i64> {
        let within = millis.iter().filter(|(_, at)| (from..=to).contains(*at));
        within.map(|(position, _)| *position).rev().collect()
    };
    for &at in millis.values() {
        for shift in [-1, 0, 1] {
            let at = at + shift;
            let from = audit(&owner, &format!("?pageSize=100&from={at}")).await;
            assert_eq!(positions(&from), within(at, i64::MAX), "from {at}");
            let to = audit(&owner, &format!("?pageSize=100&to={at}")).await;
            assert_eq!(positions(&to), within(i64::MIN, at), "to {at}");
            assert_eq!(to["totalCount"], within(i64::MIN, at).len());
            let both = audit(&owner, &format!("?pageSize=100&from={at}&to={at}")).await;
            assert_eq!(positions(&both), within(at, at), "exactly {at}");
        }
    }
    let all = audit(&owner, "?pageSize=100&from=0&to=253402300799999").await;
    assert_eq!(positions(&all), within(i64::MIN, i64::MAX));
    let backwards = audit(&owner, "?from=253402300799999&to=0").await;
    assert_eq!(backwards["totalCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_1_to_100_events_and_wrong_parameters_are_named() {
    let app = TestApp::start().await;
    let owner = app.owner();
    grant(&app, app.nobody().member_id, 101).await;
    for (query, expected) in [
        ("", 10),
        ("?pageSize=1", 1),
        ("?pageSize=100", 100),
        ("?after=0", 0),
        ("?after=1", 0),
        ("?after=9223372036854775807&pageSize=11", 11),
    ] {
        assert_eq!(positions(&audit(&owner, query).await).len(), expected, "{query}");
    }
    for (query, codes) in [
        ("pageSize=0", vec!["page_size_is_invalid"]),
        ("pageSize=101", vec!["page_size_is_invalid"]),
        ("pageSize=%2B5", vec!["page_size_is_invalid"]),
        ("pageSize=ten", vec!["page_size_is_invalid"]),
        ("actorId=me", vec!["actor_id_is_invalid"]),
        (
            "actorId=member:00000000-0000-0000-0000-000000000000",
            vec!["actor_id_is_invalid"],
        ),
        ("refId=it", vec!["ref_id_is_invalid"]),
        ("from=-1", vec!["from_is_invalid"]),
        ("from=2026-11-23", vec!["from_is_invalid"]),
        ("to=253402300800000", vec!["to_is_invalid"]),
        ("to=1.5", vec!["to_is_invalid"]),
        ("after=-1", vec!["after_is_invalid"]),
        ("after=9223372036854775808", vec!["after_is_invalid"]),
        (
            "pageSize=x&after=x&to=x&from=x&refId=x&actorId=x",
            vec![
                "actor_id_is_invalid",
                "ref_id_is_invalid",
                "from_is_invalid",
                "to_is_invalid",
                "after_is_invalid",
                "page_size_is_invalid",
            ],
        ),
    ] {
        let answer = owner.get(&format!("/audit-logs?{query}")).await;
        assert_eq!((answer.status, answer.body), (400, errors(&codes)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds_what_was_just_done_and_waits_for_a_position_only_so_long() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for nth in 0..5 {
        owner.personal_token(&format!("{nth}")).await;
        let newest = audit(&owner, "?pageSize=1").await;
        assert_eq!(newest["items"][0]["data"]["name"], format!("{nth}"));
    }
    let next = head(&app).await + 1;
    let request = owner
        .request(Method::GET, "/audit-logs")
        .header("x-at-least-position", next);
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
}
