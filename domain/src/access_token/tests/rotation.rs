//! By which secrets a token is recognised, and when. The one it is created with is 7.

use chrono::TimeDelta;

use super::*;

const SECONDS: fn(i64) -> TimeDelta = TimeDelta::seconds;

pub(super) fn rotate(secret: u8, overlap: TimeDelta) -> AccessTokenCommand {
    AccessTokenCommand::Rotate(Rotation {
        digest: digest(secret),
        hint: "api-p_wxyz*******************".to_owned(),
        overlap,
        now: at(0),
    })
}

fn digest(secret: u8) -> SecretDigest {
    SecretDigest::from_bytes([secret; 32])
}

/// Which of the secrets 7, 8 and 9 are the token's, at this time.
fn accepted(events: &[AccessTokenEvent], now: DateTime<Utc>) -> Vec<u8> {
    let token = live(events);
    (7..=9)
        .filter(|secret| token.secrets.accept(&digest(*secret), now))
        .collect()
}

#[tokio::test]
async fn a_rotation_names_the_end_of_the_secret_before() {
    for (overlap, previous_until) in [
        (SECONDS(0), None),
        (SECONDS(60), Some(at(60_000))),
        (SECONDS(86_400), Some(at(86_400_000))),
    ] {
        for token in each() {
            given(vec![token])
                .when_async(rotate(8, overlap))
                .await
                .then_expect_events(vec![rotated(8, previous_until)]);
        }
    }
}

/// Tried: without the bound by the expiry.
#[tokio::test]
async fn an_overlap_never_outlives_the_tokens_expiry() {
    for (expires_at, overlap, end) in [(at(5_000), 60, at(5_000)), (at(90_000), 60, at(60_000))] {
        given(vec![expiring(TokenType::Personal, expires_at)])
            .when_async(rotate(8, SECONDS(overlap)))
            .await
            .then_expect_events(vec![rotated(8, Some(end))]);
    }
}

#[tokio::test]
async fn a_token_whose_time_has_passed_gets_no_secret() {
    for (expires_at, refused) in [(at(0), true), (at(1), false)] {
        let asked = given(vec![expiring(TokenType::Service, expires_at)]).when_async(rotate(8, SECONDS(0)));
        if refused {
            asked.await.then_expect_error(AccessTokenRefusal::TokenIsExpired);
        } else {
            asked.await.then_expect_events(vec![rotated(8, None)]);
        }
    }
}

/// Its secret may have leaked: first it is stopped, then it is rotated, then it is activated.
#[tokio::test]
async fn an_inactive_token_is_rotated_and_stays_inactive() {
    let stopped = vec![personal(), deactivated(DeactivationReason::ByMember)];
    given(stopped.clone())
        .when_async(rotate(8, SECONDS(0)))
        .await
        .then_expect_events(vec![rotated(8, None)]);
    let token = live(&[stopped, vec![rotated(8, None)]].concat());
    assert_eq!(token.status, Status::Inactive(DeactivationReason::ByMember));
}

/// Tried: with `<=` at the end of the overlap, with the previous secret kept by a rotation without overlap, and with
/// both of the earlier ones kept.
#[test]
fn both_secrets_are_good_for_the_overlap_then_only_the_new_one_and_never_a_third() {
    assert_eq!(accepted(&[personal()], at(0)), [7]);
    assert_eq!(accepted(&[personal(), rotated(8, None)], at(0)), [8]);
    let overlapping = [personal(), rotated(8, Some(at(60)))];
    for (now, secrets) in [(0, vec![7, 8]), (59, vec![7, 8]), (60, vec![8]), (61, vec![8])] {
        assert_eq!(accepted(&overlapping, at(now)), secrets, "at {now}");
    }
    let again = [personal(), rotated(8, Some(at(60))), rotated(9, Some(at(60)))];
    assert_eq!(accepted(&again, at(0)), [8, 9]);
    assert_eq!(
        accepted(&[personal(), rotated(8, Some(at(60))), rotated(9, None)], at(0)),
        [9]
    );
    let digests: Vec<SecretDigest> = live(&again).secrets.digests().collect();
    assert_eq!(digests, [digest(9), digest(8)]);
}
