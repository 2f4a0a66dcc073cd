//! What must be true of any log and any read model, whatever has happened to the service.

use projections::compare::compare;
use projections::rebuild::{Leftovers, Rebuild};
use projections::replay::{Goal, Replay};
use projections::runner::{ReadModel, Runner};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, Row};

use super::eventually;

/// Every position is there, every stream is without a hole, and the chain holds: recomputed here, independently of the
/// database's own function. Answers the head.
pub async fn log_is_whole(pool: &PgPool) -> i64 {
    let rows = sqlx::query(
        "select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload::text as payload,
                metadata::text as metadata, (extract(epoch from recorded_at) * 1000000)::bigint as micros, hash
         from events order by position",
    )
    .fetch_all(pool)
    .await
    .expect("the log");
    let misnamed: Vec<String> = sqlx::query_scalar(
        "select t.id from (
             select aggregate_id as id, count(*) filter (where event_type <> 'access_token.removed') > 0
                    and count(*) filter (where event_type = 'access_token.removed') = 0 as is_there
             from events where aggregate_type = 'access_token' group by aggregate_id
         ) t
         where t.is_there::int <> (select count(*) from access_token_names n where n.token_id::text = t.id)",
    )
    .fetch_all(pool)
    .await
    .expect("the names");
    assert_eq!(misnamed, [""; 0], "each token has one name until it is removed");
    let mut previous = vec![0_u8; 32];
    let mut sequences = std::collections::HashMap::new();
    let mut last_time = i64::MIN;
    for (expected, row) in (1_i64..).zip(&rows) {
        let position: i64 = row.get("position");
        assert_eq!(position, expected, "positions are dense");
        let stream: (String, String) = (row.get("aggregate_type"), row.get("aggregate_id"));
        let sequence: i64 = row.get("sequence");
        let before = sequences.insert(stream.clone(), sequence).unwrap_or(0);
        assert_eq!(
            sequence,
            before + 1,
            "stream {stream:?} is without a hole at position {position}"
        );
        let micros: i64 = row.get("micros");
        assert!(
            micros >= last_time,
            "time does not go back at position {position}"
        );
        last_time = micros;

        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            hash.update(bytes);
        };
        field(&position.to_be_bytes());
        field(&previous);
        field(stream.0.as_bytes());
        field(stream.1.as_bytes());
        field(&sequence.to_be_bytes());
        for name in ["event_type", "event_version", "payload", "metadata"] {
            field(row.get::<String, _>(name).as_bytes());
        }
        field(&micros.to_be_bytes());
        previous = hash.finalize().to_vec();
        assert_eq!(
            row.get::<Vec<u8>, _>("hash"),
            previous,
            "the chain holds at position {position}"
        );
    }
    i64::try_from(rows.len()).unwrap()
}

/// Every read model is what a replay from position 0 makes of the log.
pub async fn read_models_equal_a_replay(pool: &PgPool, head: i64) {
    for read_model in ReadModel::ALL {
        let live = Runner::live(pool.clone(), read_model);
        // A node that still runs may take a batch before this does.
        eventually("the live read model catches up", async || {
            (live.catch_up().await.expect("a step") == head).then_some(())
        })
        .await;
        let rebuild = Rebuild::begin(pool.clone(), read_model, Leftovers::Discard)
            .await
            .expect("a replay");
        let mut replay = Replay::of(pool.clone(), vec![rebuild], Goal::Live)
            .await
            .expect("a replay");
        while replay.step().await.expect("the replay") {}
        for rebuild in replay.into_rebuilds() {
            let comparison = compare(&rebuild, 10).await.expect("a comparison");
            assert_eq!(comparison.position, head);
            assert_eq!(comparison.differing, 0, "{:#?}", comparison.differences);
            rebuild.discard().await.expect("it is dropped");
        }
    }
}
