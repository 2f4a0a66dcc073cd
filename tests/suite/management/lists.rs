//! Lists, pages and histories.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_by_every_filter_that_is_not_empty() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    owner.personal_token("Alpha 50%").await;
    let (stopped, _) = owner.service_token("alphabet_1", "ToggleFlag", FLAG).await;
    developer.personal_token("Beta").await;
    owner.put(&format!("{}/toggle", at(&stopped)), json!({})).await;
    let everything = ["Beta", "alphabet_1", "Alpha 50%"];
    let by_developer = format!("creatorId={}", developer.member_id);
    for (query, expected) in [
        ("", everything.as_slice()),
        ("name=&type=&creatorId=&status=&pageIndex=&pageSize=", &everything),
        ("name=ALPHA", &["alphabet_1", "Alpha 50%"]),
        ("name=50%25", &["Alpha 50%"]),
        ("name=%25", &["Alpha 50%"]),
        ("name=_", &["alphabet_1"]),
        ("name=a+5", &["Alpha 50%"]),
        ("name=gamma", &[]),
        ("type=Service", &["alphabet_1"]),
        ("type=Personal", &["Beta", "Alpha 50%"]),
        ("type=personal", &[]),
        ("status=Inactive", &["alphabet_1"]),
        ("status=Active", &["Beta", "Alpha 50%"]),
        (&by_developer, &["Beta"]),
        ("creatorId=00000000-0000-0000-0000-000000000000", &[]),
        ("name=alpha&type=Service&status=Inactive", &["alphabet_1"]),
        ("name=alpha&type=Service&status=Active", &[]),
        ("unknown=1", &everything),
        ("name=%00", &[]),
    ] {
        assert_eq!(names(&owner, query).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_1_to_100_items_counted_from_0() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for nth in 0..12 {
        owner.personal_token(&format!("{nth:02}")).await;
    }
    let page = async |query: &str| {
        let answer = owner.get(&format!("/access-tokens?{query}")).await;
        assert_eq!(answer.body["data"]["totalCount"], 12, "{query}");
        names(&owner, query).await
    };
    assert_eq!(page("").await.len(), 10);
    assert_eq!(page("pageIndex=1").await, ["01", "00"]);
    assert_eq!(page("pageIndex=2").await, [""; 0]);
    assert_eq!(page("pageIndex=2147483647&pageSize=100").await, [""; 0]);
    assert_eq!(page("pageSize=1").await, ["11"]);
    assert_eq!(page("pageSize=1&pageIndex=11").await, ["00"]);
    assert_eq!(page("pageSize=100").await.len(), 12);
    let seen: BTreeSet<String> = [
        page("pageSize=5").await,
        page("pageSize=5&pageIndex=1").await,
        page("pageSize=5&pageIndex=2").await,
    ]
    .concat()
    .into_iter()
    .collect();
    assert_eq!(seen.len(), 12, "no page shows what another does");
    for (query, codes) in [
        ("pageSize=0", vec!["page_size_is_invalid"]),
        ("pageSize=101", vec!["page_size_is_invalid"]),
        ("pageSize=-1", vec!["page_size_is_invalid"]),
        ("pageSize=ten", vec!["page_size_is_invalid"]),
        ("pageIndex=-1", vec!["page_index_is_invalid"]),
        ("pageIndex=2147483648", vec!["page_index_is_invalid"]),
        ("pageIndex=99999999999999999999", vec!["page_index_is_invalid"]),
        ("creatorId=me", vec!["creator_id_is_invalid"]),
        (
            "pageSize=0&pageIndex=-1&creatorId=me",
            vec![
                "creator_id_is_invalid",
                "page_index_is_invalid",
                "page_size_is_invalid",
            ],
        ),
    ] {
        let answer = owner.get(&format!("/access-tokens?{query}")).await;
        assert_eq!((answer.status, answer.body), (400, errors(&codes)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_holds_what_happened_to_a_token_and_to_its_creators_membership() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.personal_token("mine").await;
    let (bot, _) = developer.service_token("bot", "ToggleFlag", FLAG).await;
    developer.put(&format!("{}/deactivate", at(&id)), json!({})).await;
    let taken = json!({ "permission": "ToggleFlag" });
    app.tell(&[cloud_event(
        "PermissionRevoked",
        app.organization_id,
        developer.member_id,
        taken,
    )])
    .await;
    owner.delete(&at(&id)).await;
    let history = async |query: &str, id: &str| {
        let answer = owner.get(&format!("{}/history{query}", at(id))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let data = answer.body["data"].clone();
        let items = data["items"].as_array().unwrap().iter();
        let events: Vec<_> = items
            .map(|item| item["event"].as_str().unwrap().to_owned())
            .collect();
        (data["totalCount"].as_u64().unwrap(), events)
    };
    let expected = [
        "access_token.created",
        "access_token.deactivated",
        "member.permission_revoked",
        "access_token.removed",
    ];
    assert_eq!(
        history("", &id).await,
        (4, expected.map(ToOwned::to_owned).to_vec())
    );
    assert_eq!(
        history("?pageIndex=1&pageSize=3", &id).await,
        (4, vec!["access_token.removed".to_owned()])
    );
    assert_eq!(
        history("", &bot).await,
        (1, vec!["access_token.created".to_owned()]),
        "a service token is its own"
    );
    let wrong = owner
        .get(&format!("{}/history?pageSize=0&pageIndex=x", at(&id)))
        .await;
    assert_eq!(
        wrong.body,
        errors(&["page_index_is_invalid", "page_size_is_invalid"])
    );
    let unknown = owner
        .get(&format!("{}/history", at(&Uuid::new_v4().to_string())))
        .await;
    assert_eq!(unknown.body, errors(&["ResourceNotFound"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_who_asked_and_from_which_request() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let request = owner
        .request(Method::POST, "/access-tokens")
        .header("x-request-id", "req-7");
    let answer = Answer::of(request.json(&json!({ "name": "deploy", "type": "Personal" }))).await;
    let metadata: Value = sqlx::query_scalar("select metadata from events where position = $1")
        .bind(answer.header("x-log-position").parse::<i64>().unwrap())
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    assert_eq!(metadata["requestId"], "req-7");
    assert_eq!(metadata["actor"], format!("member:{}", owner.member_id));
}
