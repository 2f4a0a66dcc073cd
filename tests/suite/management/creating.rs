//! Creating tokens: the secret, the fields, their limits, and the codes for what is wrong with them.

use domain::policy::built_in;

use super::*;

/// Tried: the hint replaced by the secret in `Created`.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_one_answer_and_nowhere_else() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for (token_type, letter) in [("Personal", 'p'), ("Service", 's')] {
        let body =
            json!({ "name": token_type, "type": token_type, "permissions": [allow("ToggleFlag", FLAG)] });
        let created = owner.post("/access-tokens", body).await;
        assert_eq!(created.header("cache-control"), "no-store");
        let data = &created.body["data"];
        let (id, secret) = (data["id"].as_str().unwrap(), data["token"].as_str().unwrap());
        assert!(
            secret.starts_with(&format!("api-{letter}_")) && secret.len() == 48,
            "{secret}"
        );
        assert!(secret[6..].chars().all(|c| c.is_ascii_alphanumeric()), "{secret}");
        let masked = format!("{}{}", &secret[..10], "*".repeat(19));
        let renamed = owner
            .put(&at(id), json!({ "name": format!("{token_type} 2") }))
            .await;
        assert_eq!(renamed.body["data"]["token"], masked);
        assert_eq!(owner.get(&at(id)).await.body["data"]["token"], masked);
        let list = owner.get("/access-tokens").await;
        assert_eq!(list.body["data"]["items"][0]["token"], masked);
        let history = owner.get(&format!("{}/history", at(id))).await;
        assert_eq!(history.body["data"]["items"][0]["data"]["hint"], masked);
        for text in [renamed.text, list.text, history.text] {
            assert!(
                !text.contains(secret) && !text.contains(&secret[10..42]),
                "{text}"
            );
            assert!(!text.contains("digest"), "{text}");
        }
        let stored: i64 = sqlx::query_scalar(
            "select count(*) from (select payload::text as text from events
                                   union all select metadata::text from events
                                   union all select row_to_json(t)::text from access_tokens t) as all_there_is
             where text like '%' || $1 || '%'",
        )
        .bind(&secret[10..42])
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
        assert_eq!(stored, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_token_is_answered_whole_and_shown_the_same_afterwards() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let expires_at = "2026-12-24T12:00:00.123456789+01:00";
    let statement = json!({ "id": "s-1", "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"],
                            "resources": [FLAG] });
    let body = json!({ "name": "  deploy bot ", "type": "Service", "permissions": [statement], "description": "for CI",
                       "expiresAt": expires_at, "allowedIps": ["10.1.2.3/8", "::ffff:192.0.2.1", "2001:db8::/32"] });
    let created = owner.post("/access-tokens", body).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let data = &created.body["data"];
    let id = data["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "name": "deploy bot", "description": "for CI", "type": "Service", "status": "Active",
        "token": data["token"], "permissions": [statement], "expiresAt": "2026-12-24T11:00:00.123456Z",
        "allowedIps": ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"], "lastUsedAt": null,
        "createdAt": data["createdAt"], "updatedAt": data["createdAt"], "inactiveReason": null,
        "creator": { "id": owner.member_id, "name": "Olga Owner", "email": "olga.owner@tests.example" },
        "organizationId": owner.organization_id, "creatorId": owner.member_id,
    });
    assert_eq!(*data, expected);
    assert!(data["createdAt"].as_str().unwrap().ends_with('Z'));
    assert!(
        (data["createdAt"]
            .as_str()
            .unwrap()
            .parse::<DateTime<Utc>>()
            .unwrap()
            - Utc::now())
        .abs()
        .num_seconds()
            < 60
    );

    let mut shown = expected;
    shown["token"] = json!(format!(
        "{}{}",
        &data["token"].as_str().unwrap()[..10],
        "*".repeat(19)
    ));
    for name in ["organizationId", "creatorId"] {
        shown.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(owner.get(&at(id)).await.body["data"], shown);
    assert_eq!(
        owner.get("/access-tokens").await.body["data"],
        json!({ "totalCount": 1, "items": [shown] })
    );
    // The order of the fields is part of the format.
    let keys = [
        "\"id\"",
        "\"name\"",
        "\"description\"",
        "\"type\"",
        "\"status\"",
        "\"token\"",
        "\"permissions\"",
        "\"expiresAt\"",
        "\"allowedIps\"",
        "\"lastUsedAt\"",
        "\"createdAt\"",
        "\"updatedAt\"",
        "\"inactiveReason\"",
        "\"creator\"",
        "\"organizationId\"",
        "\"creatorId\"",
    ];
    let text = created.text.replace(r#""id":"s-1","#, "");
    let places: Vec<_> = keys.iter().map(|key| text.find(key).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_an_id_gets_one() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().service_token("bot", "ToggleFlag", FLAG).await;
    let token = app.owner().get(&at(&id)).await;
    assert!(
        token.body["data"]["permissions"][0]["id"]
            .as_str()
            .unwrap()
            .parse::<Uuid>()
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_with_a_body_is_named_in_the_order_of_the_fields() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let before = head(&app).await;
    let all_wrong = json!({ "allowedIps": ["nowhere"], "expiresAt": "soon", "description": 1, "permissions": {},
                            "type": "Robot", "name": " " });
    let scope = json!([allow("ToggleFlag", FLAG)]);
    for (body, codes) in [
        (json!({}), vec!["name_is_required", "type_is_required"]),
        (
            json!({ "name": null, "type": "" }),
            vec!["name_is_required", "type_is_required"],
        ),
        (
            json!({ "name": "n", "type": "personal" }),
            vec!["type_is_invalid"],
        ),
        (
            json!({ "name": "n", "type": "Service" }),
            vec!["permissions_is_invalid"],
        ),
        (
            json!({ "name": "n", "type": "Service", "permissions": [] }),
            vec!["permissions_is_invalid"],
        ),
        (
            json!({ "name": "n", "type": "Service", "permissions": null }),
            vec!["permissions_is_invalid"],
        ),
        (
            json!({ "name": "a\u{7}b", "permissions": scope }),
            vec!["name_is_invalid", "type_is_required"],
        ),
        (
            all_wrong,
            vec![
                "name_is_required",
                "type_is_invalid",
                "permissions_is_invalid",
                "description_is_invalid",
                "expires_at_is_invalid",
                "allowed_ips_is_invalid",
            ],
        ),
    ] {
        let answer = owner.post("/access-tokens", body.clone()).await;
        assert_eq!((answer.status, answer.body), (400, errors(&codes)), "{body}");
    }
    let (id, _) = owner.personal_token("known").await;
    let wrong = json!({ "allowedIps": 1, "expiresAt": 2, "permissions": 3 });
    let answer = owner.put(&at(&id), wrong).await;
    let codes = [
        "name_is_required",
        "permissions_is_invalid",
        "expires_at_is_invalid",
        "allowed_ips_is_invalid",
    ];
    assert_eq!((answer.status, answer.body), (400, errors(&codes)));
    assert_eq!(head(&app).await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_taken_up_to_its_limit_and_no_further() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let now = Utc::now();
    let addresses = |count: usize| json!((0..count).map(|nth| format!("10.0.0.{nth}")).collect::<Vec<_>>());
    let statement = |field: &str, value: Value| {
        let mut statement = allow("ToggleFlag", FLAG);
        statement[field] = value;
        json!([statement])
    };
    for (field, good, bad) in [
        ("name", json!("é".repeat(128)), json!("é".repeat(129))),
        ("description", json!("é".repeat(1000)), json!("é".repeat(1001))),
        ("description", json!(""), json!(false)),
        (
            "expiresAt",
            json!(now + TimeDelta::minutes(1)),
            json!(now - TimeDelta::seconds(1)),
        ),
        (
            "expiresAt",
            json!(now + TimeDelta::days(399)),
            json!(now + TimeDelta::days(401)),
        ),
        ("expiresAt", Value::Null, json!(1_800_000_000)),
        ("allowedIps", addresses(100), addresses(101)),
        ("allowedIps", json!(["0.0.0.0/0", "::/0"]), json!(["10.0.0.0/33"])),
        (
            "permissions",
            statement("id", json!("x".repeat(64))),
            statement("id", json!("x".repeat(65))),
        ),
        (
            "permissions",
            statement("id", Value::Null),
            statement("id", json!("")),
        ),
        (
            "permissions",
            statement("id", json!("x")),
            statement("id", json!(7)),
        ),
        (
            "permissions",
            statement("effect", json!("deny")),
            statement("effect", json!("Allow")),
        ),
        (
            "permissions",
            statement("actions", json!(["a"])),
            statement("actions", json!([])),
        ),
        (
            "permissions",
            statement("actions", json!(["*"])),
            statement("actions", json!([""])),
        ),
        (
            "permissions",
            statement("resources", json!(["a"])),
            statement("resources", json!([])),
        ),
        (
            "permissions",
            statement("resources", json!(["*"])),
            statement("resources", json!([1])),
        ),
        (
            "permissions",
            statement("resourceType", json!("new")),
            statement("resourceType", json!("")),
        ),
        ("permissions", json!([]), json!("all")),
    ] {
        let mut body = json!({ "name": Uuid::new_v4(), "type": "Personal" });
        body[field] = good.clone();
        let answer = owner.post("/access-tokens", body.clone()).await;
        assert_eq!(answer.status, 200, "{field} {good}: {}", answer.text);
        body["name"] = json!(Uuid::new_v4());
        body[field] = bad.clone();
        let answer = owner.post("/access-tokens", body).await;
        assert_eq!(answer.status, 400, "{field} {bad}");
        let code = answer.code();
        assert_eq!(
            code.replace('_', ""),
            format!("{}isinvalid", field.to_lowercase()),
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_farthest_expiry_is_what_the_node_was_told() {
    let settings = vec![("MAX_EXPIRY_DAYS", "7".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    for (minutes, status) in [(-1, 200), (1, 400)] {
        let expires_at = Utc::now() + TimeDelta::days(7) + TimeDelta::minutes(minutes);
        let body = json!({ "name": Uuid::new_v4(), "type": "Personal", "expiresAt": expires_at });
        assert_eq!(
            app.owner().post("/access-tokens", body).await.status,
            status,
            "{minutes}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_body_and_of_a_query_are_read_without_regard_to_case() {
    let app = TestApp::start().await;
    let statement =
        json!({ "ResourceType": "flag", "EFFECT": "allow", "Actions": ["ToggleFlag"], "resources": [FLAG] });
    let body = json!({ "Name": "pascal", "TYPE": "Service", "Permissions": [statement], "ALLOWEDIPS": ["10.0.0.1"] });
    let answer = app.owner().post("/access-tokens", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["data"]["allowedIps"], json!(["10.0.0.1/32"]));
    assert_eq!(
        names(&app.owner(), "NAME=pas&PageSize=1&PAGEINDEX=0").await,
        ["pascal"]
    );
}

/// The caller's own name is remembered for some seconds. Tried: without the comparison of the sequence.
#[tokio::test(flavor = "multi_thread")]
async fn a_creator_who_was_renamed_is_shown_by_the_new_name_at_once() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let creator = async |token: &str| {
        let body = json!({ "name": token, "type": "Personal" });
        let answer = owner.post("/access-tokens", body).await;
        answer.body["data"]["creator"]["name"].clone()
    };
    assert_eq!(creator("one").await, "Olga Owner");
    assert_eq!(creator("two").await, "Olga Owner");
    let data =
        json!({ "name": "Olga Other", "email": "olga@tests.example", "statements": built_in::owner() });
    app.tell(&[cloud_event(
        "MemberAdded",
        owner.organization_id,
        owner.member_id,
        data,
    )])
    .await;
    assert_eq!(creator("three").await, "Olga Other");
}
