//! Names: unique in an organization without regard to case, freed by removal.

use super::*;

/// Tried: `name_key` without lower case; no reservation in `create_token`; none released in `remove_token`.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_used_once_in_an_organization_without_regard_to_case_until_its_token_is_removed() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let is_used = async |name: &str| {
        let answer = developer
            .get(&format!("/access-tokens/is-name-used?name={name}"))
            .await;
        answer.body["data"].clone()
    };
    assert_eq!(is_used("Deploy Ä").await, false);
    let (id, _) = owner.personal_token("Deploy Ä").await;
    for same in ["Deploy Ä", "dEPLOY ä", "  deploy ä  "] {
        let answer = developer
            .post("/access-tokens", json!({ "name": same, "type": "Personal" }))
            .await;
        assert_eq!(
            (answer.status, answer.body),
            (422, errors(&["NameHasBeenUsed"])),
            "{same:?}"
        );
        assert_eq!(is_used(same).await, true, "{same:?}");
    }
    let (other, _) = developer.personal_token("Deploy").await;
    let taken = developer.put(&at(&other), json!({ "name": "DEPLOY Ä" })).await;
    assert_eq!((taken.status, taken.code()), (422, "NameHasBeenUsed"));

    assert_eq!(owner.delete(&at(&id)).await.status, 200);
    assert_eq!(is_used("Deploy Ä").await, false);
    assert_eq!(
        developer
            .put(&at(&other), json!({ "name": "DEPLOY Ä" }))
            .await
            .status,
        200
    );
    assert_eq!(is_used("deploy ä").await, true);
    assert_eq!(is_used("deploy").await, false, "a new name frees the old one");
    owner.personal_token("deploy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_be_given_its_own_name_in_another_case() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().personal_token("deploy").await;
    let answer = app.owner().put(&at(&id), json!({ "name": "Deploy" })).await;
    assert_eq!(
        (answer.status, &answer.body["data"]["name"]),
        (200, &json!("Deploy"))
    );
    assert_eq!(
        app.owner()
            .get("/access-tokens/is-name-used?name=DEPLOY")
            .await
            .body["data"],
        true
    );
    assert_eq!(
        app.owner().get("/access-tokens/is-name-used?name=").await.body,
        errors(&["name_is_required"])
    );
    assert_eq!(
        app.owner().get("/access-tokens/is-name-used").await.body,
        errors(&["name_is_required"])
    );
}

/// Tried: no reservation in `create_token`.
#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_who_ask_for_one_name_at_once_exactly_one_gets_it() {
    let app = TestApp::start().await;
    let before = head(&app).await;
    let mut requests = JoinSet::new();
    for nth in 0..50 {
        let actor = if nth % 2 == 0 {
            app.owner()
        } else {
            app.developer()
        };
        let name = if nth % 3 == 0 { "WANTED" } else { "wanted" };
        requests.spawn(async move {
            actor
                .post("/access-tokens", json!({ "name": name, "type": "Personal" }))
                .await
        });
    }
    let mut codes = Vec::new();
    while let Some(answer) = requests.join_next().await {
        let answer = answer.unwrap();
        codes.push((answer.status, answer.code().to_owned()));
    }
    assert_eq!(
        codes.iter().filter(|(status, _)| *status == 200).count(),
        1,
        "{codes:?}"
    );
    let refused = codes
        .iter()
        .filter(|(status, code)| *status == 422 && code == "NameHasBeenUsed");
    assert_eq!(refused.count(), 49, "{codes:?}");
    assert_eq!(names(&app.owner(), "").await.len(), 1);
    assert_eq!(log_is_whole(&app.database.pool).await, before + 1);
}
