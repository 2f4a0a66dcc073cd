//! How many tokens an organization may have.

use super::*;

/// A node for organizations of at most 20 tokens; on this database, or on one of its own.
async fn node(database: Option<&TestApp>) -> TestApp {
    let app = TestApp::start_with(Options {
        settings: vec![("MAX_TOKENS_PER_ORGANIZATION", "20".to_owned())],
        database: database.map(|first| first.database.clone()),
    })
    .await;
    app.catch_up().await;
    app
}

/// Tried: the bound left out of the name's reservation in `create_token`; without the events since an organization's tokens were
/// counted (`append_to_log`).
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_has_no_more_tokens_than_it_may_have_however_many_are_asked_for_at_once() {
    let app = node(None).await;
    let other = node(Some(&app)).await;
    let mut requests = JoinSet::new();
    for nth in 0..60 {
        let owner = [&app, &other][nth % 2].member(app.owner().organization_id, app.owner().member_id);
        requests.spawn(async move {
            let body = json!({ "name": format!("t{nth}"), "type": "Personal" });
            owner.post("/access-tokens", body).await
        });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 20);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(
            (answer.status, &answer.body),
            (422, &errors(&["TooManyAccessTokens"]))
        );
    }
    assert_eq!(
        app.owner().get("/access-tokens?pageSize=100").await.body["data"]["totalCount"],
        20
    );

    // An inactive token counts, a removed one does not; another organization has room of its own.
    let list = app.owner().get("/access-tokens?pageSize=1").await;
    let id = list.body["data"]["items"][0]["id"].as_str().unwrap().to_owned();
    let one_more = |name: &str| json!({ "name": name, "type": "Personal" });
    app.owner()
        .put(&format!("{}/deactivate", at(&id)), json!({}))
        .await;
    assert_eq!(
        app.owner().post("/access-tokens", one_more("x")).await.status,
        422
    );
    assert_eq!(
        app.stranger().post("/access-tokens", one_more("x")).await.status,
        200
    );
    app.owner().delete(&at(&id)).await;
    assert_eq!(
        app.owner().post("/access-tokens", one_more("x")).await.status,
        200
    );
    assert_eq!(
        app.owner().post("/access-tokens", one_more("y")).await.status,
        422
    );
}

/// What a node knows it has read where it began (see also `starting.rs`), or heard since. Tried: one that is removed not counted
/// off; those of an organization that is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_knows_how_many_tokens_there_are() {
    let first = node(None).await;
    let owner = first.owner();
    let mut ids = Vec::new();
    for nth in 0..20 {
        ids.push(owner.personal_token(&format!("t{nth}")).await.0);
    }
    owner.delete(&at(&ids[0])).await;
    let begun = node(Some(&first)).await;
    let known = |node: &TestApp| node.app.index.token_count(owner.organization_id).tokens;
    assert_eq!((known(&first), known(&begun)), (19, 19));
    let there = begun.member(owner.organization_id, owner.member_id);
    let one_more = |name: &str| json!({ "name": name, "type": "Personal" });
    assert_eq!(there.post("/access-tokens", one_more("x")).await.status, 200);
    assert_eq!(there.post("/access-tokens", one_more("y")).await.status, 422);
    // Unheard of there, or not: what was answered here is so there.
    owner.delete(&at(&ids[1])).await;
    assert_eq!(there.post("/access-tokens", one_more("y")).await.status, 200);
    assert_eq!(owner.post("/access-tokens", one_more("z")).await.status, 422);
    first.catch_up().await;
    begun.catch_up().await;
    assert_eq!((known(&first), known(&begun)), (20, 20));
    let mut removed = cloud_event(
        "OrganizationRemoved",
        first.organization_id,
        owner.member_id,
        json!({}),
    );
    removed["data"].as_object_mut().unwrap().remove("memberId");
    first.tell(&[removed]).await;
    first.catch_up().await;
    assert_eq!(known(&first), 0);
}
