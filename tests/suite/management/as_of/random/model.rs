//! What an answer must be: a fold of the events up to its position, straight from the table.

use sqlx::Row;

use super::*;

/// The organization's part of the log, as it stands in the table.
pub(super) struct Log {
    pub(super) head: i64,
    rows: Vec<Recorded>,
    times: BTreeMap<i64, DateTime<Utc>>,
}

struct Recorded {
    position: i64,
    aggregate_type: String,
    aggregate_id: String,
    payload: Value,
}

impl Log {
    pub(super) async fn of(app: &TestApp, organization_id: OrganizationId) -> Self {
        let rows = sqlx::query(
            "select position, aggregate_type, aggregate_id, payload, recorded_at, organization_id from events order by position",
        )
        .fetch_all(&app.database.pool)
        .await
        .unwrap();
        let times: BTreeMap<i64, DateTime<Utc>> = rows
            .iter()
            .map(|row| (row.get("position"), row.get("recorded_at")))
            .collect();
        Self {
            head: *times.keys().next_back().unwrap(),
            rows: rows
                .iter()
                .filter(|row| row.get::<Uuid, _>("organization_id") == organization_id.as_uuid())
                .map(|row| Recorded {
                    position: row.get("position"),
                    aggregate_type: row.get("aggregate_type"),
                    aggregate_id: row.get("aggregate_id"),
                    payload: row.get("payload"),
                })
                .collect(),
            times,
        }
    }

    fn until(&self, position: i64) -> impl Iterator<Item = &Recorded> {
        self.rows.iter().filter(move |row| row.position <= position)
    }

    pub(super) fn created(&self, id: &str) -> i64 {
        self.rows
            .iter()
            .find(|row| row.aggregate_id == id)
            .unwrap()
            .position
    }

    pub(super) fn is_last_at_its_time(&self, position: i64) -> bool {
        self.times.get(&(position + 1)) != self.times.get(&position)
    }

    /// Holds an answer against a fold of the events up to its position.
    pub(super) fn expect(&self, answer: &Value, id: &str, position: i64, context: &str) {
        let time = self.times[&position];
        assert_eq!(answer["time"], json!(time), "{context}");
        let mut token = AccessToken::default();
        let mut creator = Member::default();
        let created: Value = self
            .rows
            .iter()
            .find(|row| row.aggregate_id == id)
            .map(|row| row.payload.clone())
            .unwrap();
        let stream = format!(
            "{}:{}",
            created["organizationId"].as_str().unwrap(),
            created["creatorId"].as_str().unwrap()
        );
        let (mut heard, mut ended) = (false, false);
        for row in self.until(position) {
            match row.aggregate_type.as_str() {
                "access_token" if row.aggregate_id == id => {
                    heard = true;
                    token.apply(serde_json::from_value(row.payload.clone()).unwrap());
                    if ended {
                        remove(&mut token);
                    }
                }
                "member" if row.aggregate_id == stream => {
                    heard = true;
                    let event: MemberEvent = serde_json::from_value(row.payload.clone()).unwrap();
                    ended &= !matches!(event, MemberEvent::Added { .. });
                    creator.apply(event);
                }
                "organization" => {
                    ended = heard;
                    remove(&mut token);
                }
                _ => {}
            }
        }
        let mut standing = creator.standing();
        standing.is_member &= !ended;
        let credential = Credential::of(&token).expect("the token was created");
        let reason = decide_for_token(&credential, None, &standing, &question(("", ""), time)).reason;
        let is_usable = matches!(
            reason,
            Reason::Allowed
                | Reason::DeniedByStatement
                | Reason::NoMatchingStatement
                | Reason::OutsideTokenScope
        );
        let reason = (!is_usable).then_some(reason);
        assert_eq!(answer["usable"], json!(is_usable), "{context}");
        assert_eq!(answer["reason"], json!(reason), "{context}");
        let is_active = token.live().is_some_and(|token| {
            token.is_effectively_active(CreatorStanding {
                is_member: standing.is_member,
                membership_number: standing.membership_number,
                now: time,
            })
        });
        assert_eq!(
            answer["status"],
            if is_active { "Active" } else { "Inactive" },
            "{context}"
        );
        let is_service = created["tokenType"] == "Service";
        let own: Vec<Statement> = serde_json::from_value(created["statements"].clone()).unwrap();
        let expected = match (is_service, ended) {
            (true, _) => Permission::from_statements(own.clone()),
            (false, true) => Permission::default(),
            (false, false) => creator.permission(),
        };
        self.expect_statements(answer, &expected, context);
        let scope = (!is_service && !own.is_empty()).then_some(own);
        assert_eq!(answer["scope"], json!(scope), "{context}");
    }

    /// The same statements in the same order, each from an event that holds it; and each revocation that takes something
    /// asked here from an event that says so, later in the order.
    fn expect_statements(&self, answer: &Value, expected: &Permission, context: &str) {
        let shown = answer["statements"].as_array().unwrap();
        let plain: Vec<Statement> = serde_json::from_value(answer["statements"].clone()).unwrap();
        assert_eq!(
            plain,
            expected.statements().cloned().collect::<Vec<_>>(),
            "{context}"
        );
        for (statement, shown) in plain.iter().zip(shown) {
            let source = self.payload(shown["position"].as_i64().unwrap());
            let held: Vec<Statement> = serde_json::from_value(source["statements"].clone()).unwrap();
            assert!(held.contains(statement), "{context}: {shown} is not of {source}");
            for revoked in shown
                .get("revoked")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                assert_eq!(statement.effect, Effect::Allow, "{context}: {shown}");
                let source = self.payload(revoked["position"].as_i64().unwrap());
                assert_eq!(source["event"], "member.permission_revoked", "{context}");
                assert_eq!(source["permission"], revoked["permission"], "{context}");
                assert_eq!(source["resources"], revoked["resources"], "{context}");
            }
        }
        let mut nth = 0;
        for (index, entry) in expected.entries().iter().enumerate() {
            let Entry::Statement(statement) = entry else {
                continue;
            };
            let later = expected.entries()[index..]
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Revocation(revocation) => Some(revocation),
                    Entry::Statement(_) => None,
                });
            let taken: Vec<&Revocation> = later.filter(|later| later.takes_from(statement)).collect();
            let said: Vec<Revocation> =
                serde_json::from_value(shown[nth].get("revoked").cloned().unwrap_or(json!([]))).unwrap();
            assert_eq!(said.iter().collect::<Vec<_>>(), taken, "{context}");
            nth += 1;
        }
    }

    fn payload(&self, position: i64) -> &Value {
        &self
            .rows
            .iter()
            .find(|row| row.position == position)
            .unwrap()
            .payload
    }
}

fn remove(token: &mut AccessToken) {
    if let Some(live) = token.live() {
        let (token_id, organization_id) = (live.id, live.organization_id);
        token.apply(AccessTokenEvent::Removed {
            token_id,
            organization_id,
        });
    }
}
