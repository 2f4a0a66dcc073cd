//! Callers: forged JWTs, access tokens, organizations that are not theirs.

use super::*;

fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn base64url(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = text.bytes().map(|byte| format!("{byte:08b}")).collect();
    bits.as_bytes()
        .chunks(6)
        .map(|six| format!("{:0<6}", std::str::from_utf8(six).unwrap()))
        .map(|six| char::from(ALPHABET[usize::from_str_radix(&six, 2).unwrap()]))
        .collect()
}

/// Tried: `leeway` of a minute; no issuer; no audience; no `nbf`; every HMAC.
#[tokio::test(flavor = "multi_thread")]
async fn only_featbits_own_jwts_are_believed() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let in_seconds = |seconds: i64| (Utc::now() + TimeDelta::seconds(seconds)).timestamp();
    let good =
        json!({ "id": owner.member_id, "iss": "featbit", "aud": "featbit-api", "exp": in_seconds(300) });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let key = EncodingKey::from_secret(JWT_KEY.as_bytes());
    let hs256 = |claims: &Value| signed(Algorithm::HS256, &key, claims);
    let ask = async |jwt: &str| {
        let actor = app.with_authorization(owner.organization_id, owner.member_id, &format!("Bearer {jwt}"));
        actor.get("/access-tokens").await
    };
    for claims in [
        good.clone(),
        with("aud", json!(["other", "featbit-api"])),
        with("nbf", json!(in_seconds(-5))),
    ] {
        assert_eq!(ask(&hs256(&claims)).await.status, 200, "{claims}");
    }
    nothing_comes_of(&app, async || {
        let mut forged: Vec<String> = [
            with("exp", json!(in_seconds(-1))),
            // Not on that second either. Tried: without `reject_tokens_expiring_in_less_than`.
            with("exp", json!(in_seconds(0))),
            with("exp", json!("never")),
            with("exp", json!(-1)),
            with("nbf", json!(in_seconds(60))),
            with("iss", json!("featbit.evil")),
            with("iss", json!("")),
            with("aud", json!("featbit")),
            with("aud", json!([])),
            with("id", json!("olga")),
            with("id", json!(7)),
            without("exp"),
            without("iss"),
            without("aud"),
            without("id"),
            json!({}),
        ]
        .iter()
        .map(hs256)
        .collect();
        let real = hs256(&good);
        let parts: Vec<&str> = real.split('.').collect();
        let none = base64url(r#"{"typ":"JWT","alg":"none"}"#);
        let as_other = |algorithm: &str| base64url(&format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#));
        let somebody_else = hs256(&with("id", json!(app.stranger().member_id)));
        let another_payload = somebody_else.split('.').nth(1).unwrap();
        forged.extend([
            signed(
                Algorithm::HS256,
                &EncodingKey::from_secret(b"another key, as long as the one that is right"),
                &good,
            ),
            signed(Algorithm::HS256, &EncodingKey::from_secret(b""), &good),
            // It means something else to who knows `zz`. Tried: without the look at `crit`.
            encode(
                &Header {
                    crit: Some(vec!["zz".to_owned()]),
                    ..Header::new(Algorithm::HS256)
                },
                &good,
                &key,
            )
            .unwrap(),
            signed(Algorithm::HS384, &key, &good),
            signed(Algorithm::HS512, &key, &good),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", as_other("None"), parts[1], parts[2]),
            format!("{}.{}.{}", as_other("RS256"), parts[1], parts[2]),
            format!("{}.{}.{}", as_other("ES256"), parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], another_payload, parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{real}.{}", parts[2]),
            format!("{real}x"),
            "..".to_owned(),
            "x".repeat(8 * KIB),
            String::new(),
        ]);
        for jwt in forged {
            let answer = ask(&jwt).await;
            assert_eq!(
                (answer.status, answer.body),
                (401, errors(&["Unauthorized"])),
                "{jwt}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    })
    .await;
}

/// A node that checks JWTs with this key.
async fn node_with_public_key(algorithm: &str, public_key: &str) -> TestApp {
    let path = std::env::temp_dir().join(format!("{}.pem", Uuid::new_v4()));
    std::fs::write(&path, public_key).unwrap();
    let settings = vec![
        ("JWT_ALGORITHM", algorithm.to_owned()),
        ("JWT_PUBLIC_KEY_PATH", path.to_str().unwrap().to_owned()),
        ("JWT_KEY", String::new()),
    ];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    std::fs::remove_file(&path).unwrap();
    app
}

/// Both forms in which RSA keys are written. The keys were made for this test by `openssl genpkey`.
#[tokio::test(flavor = "multi_thread")]
async fn with_an_rsa_key_what_its_other_half_signed_is_believed() {
    let private = EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.private.pem")).unwrap();
    for public in [
        include_str!("keys/rs256.public.pem"),
        include_str!("keys/rs256.public.pkcs1.pem"),
    ] {
        let app = node_with_public_key("RS256", public).await;
        let owner = app.owner();
        let expires = (Utc::now() + TimeDelta::minutes(5)).timestamp();
        let claims = json!({ "id": owner.member_id, "iss": "featbit", "aud": "featbit-api", "exp": expires });
        let good = signed(Algorithm::RS256, &private, &claims);
        let (head, signature) = good.rsplit_once('.').unwrap();
        let forged = format!("{head}.{}{}", &signature[1..], &signature[..1]);
        let shared = signed(
            Algorithm::HS256,
            &EncodingKey::from_secret(public.as_bytes()),
            &claims,
        );
        let other_hash = signed(Algorithm::RS512, &private, &claims);
        for (jwt, status) in [
            (good.as_str(), 200),
            (&forged, 401),
            (&shared, 401),
            (&other_hash, 401),
        ] {
            let bearer = format!("Bearer {jwt}");
            let actor = app.with_authorization(owner.organization_id, owner.member_id, &bearer);
            assert_eq!(actor.get("/access-tokens").await.status, status, "{jwt}");
        }
    }
}

/// The public half of a key is no secret: who signs with it by HS256 must not be believed. The keys are
/// jwt.io's examples.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_public_key_is_set_nothing_signed_with_it_as_a_shared_key_is_believed() {
    const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
";
    const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2
OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r
1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G
-----END PRIVATE KEY-----
";
    let app = node_with_public_key("ES256", PUBLIC_KEY).await;
    let owner = app.owner();
    let expires = (Utc::now() + TimeDelta::minutes(5)).timestamp();
    let claims = json!({ "id": owner.member_id, "iss": "featbit", "aud": "featbit-api", "exp": expires });
    let ask = async |jwt: String| {
        let actor = app.with_authorization(owner.organization_id, owner.member_id, &format!("Bearer {jwt}"));
        actor.get("/access-tokens").await.status
    };
    let private = EncodingKey::from_ec_pem(PRIVATE_KEY.as_bytes()).unwrap();
    assert_eq!(ask(signed(Algorithm::ES256, &private, &claims)).await, 200);
    for key in [PUBLIC_KEY, PUBLIC_KEY.trim_end(), JWT_KEY] {
        let shared = EncodingKey::from_secret(key.as_bytes());
        assert_eq!(ask(signed(Algorithm::HS256, &shared, &claims)).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_is_none_is_401_and_never_a_guess() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let good = jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5));
    nothing_comes_of(&app, async || {
        let with = |authorization: &str| {
            app.with_authorization(owner.organization_id, owner.member_id, authorization)
        };
        for authorization in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            &good,
            "Basic dXNlcjpwYXNz",
            &format!("Token {good}"),
            &format!("Bearer Bearer {good}"),
            &format!("Bearer {good}, Bearer {good}"),
            "Bearer null",
            "Bearer undefined",
        ] {
            let answer = with(authorization).get("/access-tokens").await;
            assert_eq!(
                (answer.status, answer.body),
                (401, errors(&["Unauthorized"])),
                "{authorization:?}"
            );
        }
        let twice = owner
            .request(Method::GET, "/access-tokens")
            .header("authorization", format!("Bearer {good}"));
        assert_eq!(Answer::of(twice).await.status, 401, "two of them");
        let bytes = [b"Bearer \xff\xfe" as &[u8], good.as_bytes()].concat();
        let request = app
            .request(Method::GET, "/api/v1/access-tokens")
            .header("organization", owner.organization_id.to_string())
            .header(
                "authorization",
                reqwest::header::HeaderValue::from_bytes(&bytes).unwrap(),
            );
        assert_eq!(Answer::of(request).await.status, 401);
    })
    .await;
    // The scheme's case and the space around it are nobody's secret.
    for authorization in [format!("bearer {good}"), format!("BEARER   {good}  ")] {
        let actor = app.with_authorization(owner.organization_id, owner.member_id, &authorization);
        assert_eq!(actor.get("/access-tokens").await.status, 200, "{authorization}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_names_one_organization_it_belongs_to() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let bearer = format!(
        "Bearer {}",
        jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5))
    );
    let ask = async |organizations: &[&str]| {
        let request = app
            .request(Method::GET, "/api/v1/access-tokens")
            .header("authorization", &bearer);
        let request = organizations
            .iter()
            .fold(request, |request, name| request.header("organization", *name));
        Answer::of(request).await
    };
    let (here, there) = (
        owner.organization_id.to_string(),
        app.stranger().organization_id.to_string(),
    );
    assert_eq!(ask(&[&here]).await.status, 200);
    assert_eq!(ask(&[&here.to_uppercase()]).await.status, 200);
    nothing_comes_of(&app, async || {
        for organizations in [
            [].as_slice(),
            &[""],
            &["acme"],
            &[&there],
            &[&here, &here],
            &[&here, &there],
            &[&format!("{here},{here}")],
            &["00000000-0000-0000-0000-000000000000"],
        ] {
            let answer = ask(organizations).await;
            assert_eq!(
                (answer.status, answer.body),
                (403, errors(&["Forbidden"])),
                "{organizations:?}"
            );
        }
        let actor = app.member(owner.organization_id, Uuid::new_v4().into());
        assert_eq!(
            actor.get("/access-tokens").await.status,
            403,
            "a JWT of nobody here"
        );
    })
    .await;
}

/// FeatBit's clients send the secret as it is, others behind `Bearer`. Tried: the check taken out of `authenticate`.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_manages_no_access_tokens() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (_, personal) = owner.personal_token("mine").await;
    let (_, service) = owner.service_token("bot", "*", "*").await;
    let (stopped, inactive) = owner.personal_token("stopped").await;
    owner
        .put(&format!("/access-tokens/{stopped}/toggle"), json!({}))
        .await;
    let (removed, dead) = owner.personal_token("removed").await;
    owner.delete(&format!("/access-tokens/{removed}")).await;
    nothing_comes_of(&app, async || {
        let with = |authorization: &str| {
            app.with_authorization(owner.organization_id, owner.member_id, authorization)
        };
        for (secret, status, code) in [
            (personal.as_str(), 403, "Forbidden"),
            (&service, 403, "Forbidden"),
            (&inactive, 403, "Forbidden"),
            (&dead, 401, "Unauthorized"),
            (
                "api-p_000000000000000000000000000000000000000000",
                401,
                "Unauthorized",
            ),
            (
                "api-AAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBB",
                401,
                "Unauthorized",
            ),
            (&personal[..47], 401, "Unauthorized"),
        ] {
            for authorization in [
                secret.to_owned(),
                format!("Bearer {secret}"),
                format!("bearer {secret}"),
            ] {
                let actor = with(&authorization);
                let answer = actor.get("/access-tokens").await;
                assert_eq!(
                    (answer.status, answer.body),
                    (status, errors(&[code])),
                    "{authorization}"
                );
                let answer = actor
                    .post("/access-tokens", json!({ "name": "n", "type": "Personal" }))
                    .await;
                assert_eq!(
                    (answer.status, answer.body),
                    (status, errors(&[code])),
                    "{authorization}"
                );
                let challenge = answer.headers.get("www-authenticate").is_some();
                assert_eq!(
                    challenge,
                    status == 401,
                    "a permission failure is never a challenge"
                );
            }
        }
    })
    .await;
}
