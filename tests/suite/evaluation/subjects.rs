//! Members as subjects, and the organization that a resource is in.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_do_what_its_own_permission_says() {
    let app = TestApp::start().await;
    let of = |id: Value, organization: Value| {
        let subject = json!({ "type": "member", "id": id, "properties": { "organizationId": organization } });
        question(subject, json!({}))
    };
    let (here, there) = (json!(app.organization_id), json!(app.stranger().organization_id));
    let (owner, stranger) = (json!(app.owner().member_id), json!(app.stranger().member_id));
    for (subject, expected) in [
        (of(owner.clone(), here.clone()), "allowed"),
        (of(json!(app.developer().member_id), here.clone()), "allowed"),
        (
            of(json!(app.nobody().member_id), here.clone()),
            "no_matching_statement",
        ),
        (of(owner.clone(), there.clone()), "creator_not_a_member"),
        (of(stranger.clone(), here.clone()), "creator_not_a_member"),
        (of(stranger, there), "allowed"),
        (of(json!(Uuid::new_v4()), here.clone()), "creator_not_a_member"),
        (of(json!("olga"), here), "creator_not_a_member"),
        (of(owner, json!("acme")), "creator_not_a_member"),
    ] {
        let answer = app.evaluate(subject.clone()).await;
        assert_eq!(
            (answer.status, reason(&answer.body).as_str()),
            (200, expected),
            "{subject}"
        );
    }
    tell(&app, "MemberRemoved", &app.developer(), json!({})).await;
    let removed = app.evaluate(question(member(&app.developer()), json!({}))).await;
    assert_eq!(reason(&removed.body), "creator_not_a_member");
}

/// Tried: the organization not compared in `by_permission`.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_in_another_organization_is_matched_by_no_statement() {
    let app = TestApp::start().await;
    let (_, personal) = app.owner().personal_token("mine").await;
    let (_, service) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    for subject in [token(&personal), token(&service), member(&app.owner())] {
        for (organization, expected) in [
            (json!(app.organization_id), "allowed"),
            (json!(app.organization_id.to_string().to_uppercase()), "allowed"),
            (Value::Null, "allowed"),
            (json!(app.stranger().organization_id), "no_matching_statement"),
            (
                json!("00000000-0000-0000-0000-000000000000"),
                "no_matching_statement",
            ),
            (json!("acme"), "no_matching_statement"),
            (json!(""), "no_matching_statement"),
        ] {
            let mut asked = question(subject.clone(), json!({}));
            asked["resource"]["properties"] = json!({ "organizationId": organization });
            assert_eq!(
                reason(&app.evaluate(asked).await.body),
                expected,
                "{organization}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_of_a_type_nobody_knows_is_unknown() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    for kind in ["user", "", "ACCESS_TOKEN", "access_token "] {
        let answer = app
            .evaluate(question(json!({ "type": kind, "id": secret }), json!({})))
            .await;
        assert_eq!(
            (answer.status, reason(&answer.body).as_str()),
            (200, "unknown_token"),
            "{kind:?}"
        );
    }
}
