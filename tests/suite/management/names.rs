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
