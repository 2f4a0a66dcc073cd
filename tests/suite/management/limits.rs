//! How many tokens an organization may have.

use super::*;

/// Tried: the bound left out of the name's reservation in `create_token`.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_has_no_more_tokens_than_it_may_have_however_many_are_asked_for_at_once() {
    let settings = vec![("MAX_TOKENS_PER_ORGANIZATION", "20".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let mut requests = JoinSet::new();
    for nth in 0..60 {
        let owner = app.owner();
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
