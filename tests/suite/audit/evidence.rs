//! Exports, and the chain of hashes by itself.

use sqlx::Executor;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_the_whole_log_and_can_be_verified_without_the_database() {
    let (database, folder) = (a_log().await, Folder::new());
    let head = head(&database.pool).await;
    let exported = audit(&[("DATABASE_URL", &database.url)], &["export"]).await;
    assert_eq!(exported.status, Some(0), "{}", exported.said);
    let all = lines(&exported.out);
    assert_eq!(all.len(), usize::try_from(head).unwrap());
    for (position, line) in (1_i64..).zip(&all) {
        assert_eq!(line["position"], position);
    }
    let keys = [
        "position",
        "refType",
        "refId",
        "sequence",
        "event",
        "version",
        "time",
        "actor",
        "data",
        "metadata",
        "previousHash",
        "hash",
    ];
    for line in exported.out.lines() {
        let places: Vec<_> = keys
            .iter()
            .map(|key| line.find(&format!("\"{key}\":")).unwrap())
            .collect();
        let last = places.iter().rev().take(4).rev();
        assert!(
            last.is_sorted() && places[..9].is_sorted(),
            "in this order: {line}"
        );
        assert_eq!(lines(line)[0].as_object().unwrap().len(), keys.len());
    }
    let stored: Vec<(String, String)> =
        sqlx::query_as("select payload::text, metadata->>'actor' from events order by position")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    for ((line, text), (payload, actor)) in all.iter().zip(exported.out.lines()).zip(&stored) {
        assert!(
            text.contains(&format!("\"data\":{payload},\"metadata\":")),
            "byte for byte: {text}"
        );
        assert_eq!(line["actor"], *actor);
    }

    let file = folder.write("all.jsonl", &exported.out);
    let verified = audit(&[], &["verify", "--file", &file]).await;
    assert_eq!(verified.status, Some(0), "{}", verified.said);
    assert!(verified.out.is_empty());
    assert!(
        verified
            .said
            .contains(&format!("positions 1 to {head}: the chain of hashes holds"))
            && verified.said.contains("not held against signed checkpoints"),
        "{}",
        verified.said
    );

    let part = audit(
        &[("DATABASE_URL", &database.url)],
        &["export", "--from", "5", "--to", "9", "--format", "jsonl"],
    )
    .await;
    assert_eq!(lines(&part.out), all[4..9]);
    let file = folder.write("part.jsonl", &part.out);
    let verified = audit(&[], &["verify", "--file", &file, "--from", "5"]).await;
    assert_eq!(verified.status, Some(0), "{}", verified.said);
    assert!(verified.said.contains("positions 5 to 9:"), "{}", verified.said);
    // Tried: the first line believed, whatever its position.
    for (arguments, named) in [
        (&["verify", "--file", &file][..], "begins with position 5, not 1"),
        (
            &["verify", "--file", &file, "--from", "4"],
            "begins with position 5, not 4",
        ),
        (
            &["verify", "--file", &file, "--from", "6"],
            "begins with position 5, not 6",
        ),
    ] {
        let cut = audit(&[], arguments).await;
        assert_eq!(cut.status, Some(1), "{}", cut.said);
        assert!(cut.said.contains(named), "{}", cut.said);
    }

    let past = (head + 1).to_string();
    let none = audit(&[("DATABASE_URL", &database.url)], &["export", "--from", &past]).await;
    assert_eq!((none.status, none.out.as_str()), (Some(0), ""));
    for wrong in [
        &["export", "--from", "0"][..],
        &["export", "--format", "csv"],
        &["verify", "--to", "3"],
        &["verify", "--from", "3"],
        &[],
    ] {
        assert_eq!(audit(&[], wrong).await.status, Some(2), "{wrong:?}");
    }
    let without = audit(&[], &["export"]).await;
    assert_eq!(without.status, Some(1));
    assert!(
        without.said.contains("DATABASE_URL is not set"),
        "{}",
        without.said
    );
}

/// What a superuser may do to the log when the triggers are off, and the position that is named.
const TAMPERINGS: [(&str, &str); 14] = [
    (
        "update events set payload = replace(payload::text, 'service 1', 'service I')::json where payload::text like '%service 1%'",
        "the event's hash is not that of the event",
    ),
    (
        "update events set metadata = replace(metadata::text, 'member:', 'Member:')::json where position = 9",
        "position 9: the event's hash",
    ),
    (
        "update events set recorded_at = recorded_at + interval '1 microsecond' where position = 7",
        "position 7: the event's hash",
    ),
    ("update events set recorded_at = 'infinity' where position = 6", "position 6: the event holds what can't be read"),
    ("update events set event_type = 'access_token.x' where position = 8", "position 8: the event's hash"),
    ("update events set event_version = '1.0.1' where position = 8", "position 8: the event's hash"),
    ("update events set aggregate_id = aggregate_id || ' ' where position = 3", "position 3: the event's hash"),
    ("update events set sequence = sequence + 40 where position = 11", "position 11: the event's hash"),
    ("update events set hash = sha256(hash) where position = 10", "position 10: the event's hash"),
    (
        "update events set payload = '{}', hash = event_hash(position, (select hash from events where position = 5),
             hashed_contents(aggregate_type, aggregate_id, sequence, event_type, event_version, '{}', metadata::text, recorded_at))
         where position = 6",
        "position 6: the event is filed under another organization",
    ),
    (
        "update events set position = 15 - position where position in (7, 8)",
        "position 7: the event's hash",
    ),
    ("delete from events where position = 12", "position 12: the event is missing"),
    (
        "insert into events select position, aggregate_type, aggregate_id, sequence + 1000, event_type, event_version, payload,
             metadata, organization_id, recorded_at, hash from events where position = 4",
        "position 4: ",
    ),
    ("update events set organization_id = gen_random_uuid() where position = 2", "position 2: the event is filed under another"),
];

/// Tried: with each field left out of `hash_after`; without following positions; without looking at the organization; the
/// page read by rows in place of positions (a doubled one at its edge is skipped).
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_superuser_changes_in_the_log_is_named() {
    let database = a_log().await;
    let pool = &database.pool;
    let settings = [("DATABASE_URL", database.url.as_str())];
    let untouched = audit(&settings, &["verify"]).await;
    assert_eq!(untouched.status, Some(0), "{}", untouched.said);
    pool.execute(
        "create table kept as select * from events;
         alter table events disable trigger all;
         alter table events drop constraint events_position_key",
    )
    .await
    .unwrap();
    for (tampering, named) in TAMPERINGS {
        pool.execute(tampering).await.unwrap();
        let verified = audit(&settings, &["verify"]).await;
        assert_eq!(verified.status, Some(1), "{tampering}: {}", verified.said);
        assert!(verified.said.contains(named), "{tampering}: {}", verified.said);
        pool.execute("delete from events; insert into events select * from kept")
            .await
            .unwrap();
    }
    // The tail: nobody has signed, but somebody has followed.
    let head = head(pool).await;
    pool.execute(format!("delete from events where position > {}", head - 3).as_str())
        .await
        .unwrap();
    let verified = audit(&settings, &["verify"]).await;
    assert_eq!(verified.status, Some(1), "{}", verified.said);
    let named = format!("position {}: the event is missing, and all after it: ", head - 2);
    assert!(verified.said.contains(&named), "{}", verified.said);
}

/// Tried: without comparing the actor, without comparing the previous hash, unknown fields let through.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_changed_in_an_export_is_named() {
    let (database, folder) = (a_log().await, Folder::new());
    let exported = audit(&[("DATABASE_URL", &database.url)], &["export"]).await.out;
    let all: Vec<&str> = exported.lines().collect();
    let replaced = |position: usize, from: &str, to: &str| {
        let mut all: Vec<String> = all.iter().map(|line| (*line).to_owned()).collect();
        let line = &mut all[position - 1];
        assert!(line.contains(from), "{line}");
        *line = line.replacen(from, to, 1);
        all
    };
    let joined = |positions: Vec<usize>| {
        positions
            .iter()
            .map(|at| all[at - 1].to_owned())
            .collect::<Vec<_>>()
    };
    let mut swapped: Vec<usize> = (1..=all.len()).collect();
    swapped.swap(6, 7);
    let with_other_hash = lines(all[8])[0]["hash"].as_str().unwrap().to_owned();
    for (what, changed, named) in [
        (
            "a byte",
            replaced(6, "\"tokenId\":\"0", "\"tokenId\":\"1"),
            "position 6: the event's hash",
        ),
        (
            "white space",
            replaced(6, "\"data\":{", "\"data\":{ "),
            "position 6: the event's hash",
        ),
        (
            "the time",
            replaced(7, "Z\",\"actor\"", "1Z\",\"actor\""),
            "position 7: the event's hash",
        ),
        (
            "the actor",
            replaced(8, "\"actor\":\"member:", "\"actor\":\"nobody:"),
            "position 8: the actor",
        ),
        (
            "the previous hash",
            replaced(9, "\"previousHash\":\"", "\"previousHash\":\"00"),
            "position 9: the line",
        ),
        (
            "the hash before",
            replaced(
                10,
                &format!("\"previousHash\":\"{with_other_hash}"),
                &format!("\"previousHash\":\"{}", "0".repeat(64)),
            ),
            "position 10: the previous hash",
        ),
        (
            "another field",
            replaced(3, "{\"position\"", "{\"checked\":true,\"position\""),
            "position 3: the line",
        ),
        (
            "a second field",
            replaced(3, "{\"position\"", "{\"actor\":\"x\",\"position\""),
            "position 3: the line",
        ),
        ("two swapped", joined(swapped), "position 7: the event is missing"),
        (
            "one left out",
            joined((1..=all.len()).filter(|at| *at != 4).collect()),
            "position 4: the event is missing",
        ),
        (
            "one twice",
            joined([(1..=4).collect(), (4..=all.len()).collect::<Vec<_>>()].concat()),
            "position 4: there is more",
        ),
        ("an empty line", replaced(5, all[4], ""), "position 5: the line"),
        ("nothing", Vec::new(), "holds no events"),
    ] {
        let text: String = changed.iter().map(|line| format!("{line}\n")).collect();
        let file = folder.write("changed.jsonl", text);
        let verified = audit(&[], &["verify", "--file", &file]).await;
        assert_eq!(verified.status, Some(1), "{what}: {}", verified.said);
        assert!(verified.said.contains(named), "{what}: {}", verified.said);
    }
    let mut binary = format!("{}\n", all[..4].join("\n")).into_bytes();
    binary.extend_from_slice(b"\xff\xfe\n");
    let file = folder.write("binary", binary);
    let verified = audit(&[], &["verify", "--file", &file]).await;
    assert_eq!(verified.status, Some(1));
    assert!(
        verified.said.contains("position 5: the line"),
        "{}",
        verified.said
    );
    let nowhere = audit(&[], &["verify", "--file", "/nowhere"]).await;
    assert_eq!(nowhere.status, Some(1));
    assert!(
        nowhere.said.contains("/nowhere can't be read"),
        "{}",
        nowhere.said
    );
    let file = folder.write("cut.jsonl", format!("{}\n", all[..5].join("\n")));
    let cut = audit(&[], &["verify", "--file", &file, "--to", "6"]).await;
    assert_eq!(cut.status, Some(1));
    assert!(
        cut.said.contains("position 6: the event is missing"),
        "{}",
        cut.said
    );
}
