//! A token's history, read from the log: its own events and those of its creator's membership.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::log::{COLUMNS, ReadLogError, RecordedEvent, recorded};

/// Whose events it is.
#[derive(Clone, Debug)]
pub struct History {
    /// The token's own stream.
    pub token_stream: String,
    /// Its creator's, and the position after which it counts; none where it does not.
    pub creator_stream: Option<(String, i64)>,
}

/// Its positions, found along the primary key whatever is then made of them.
const POSITIONS: &str = "with history as materialized (
    select position from events where aggregate_type = 'access_token' and aggregate_id = $1
    union all
    select position from events where aggregate_type = 'member' and aggregate_id = $2 and position > $3
)";

impl History {
    /// A page of it in the order of the log, and how many events there are in all.
    ///
    /// # Errors
    /// [`ReadLogError`]
    pub async fn read(
        &self,
        connection: &mut PgConnection,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<RecordedEvent>, i64), ReadLogError> {
        let (creator, since) = self.creator();
        let total = sqlx::query_scalar(&format!("{POSITIONS} select count(*) from history"))
            .bind(&self.token_stream)
            .bind(creator)
            .bind(since)
            .fetch_one(&mut *connection)
            .await?;
        let page = format!(
            "{POSITIONS}
             select {COLUMNS}
             from (select position from history order by position offset $4 limit $5) page
             join events using (position)
             order by position"
        );
        let rows = sqlx::query(&page)
            .bind(&self.token_stream)
            .bind(creator)
            .bind(since)
            .bind(skip)
            .bind(limit)
            .fetch_all(connection)
            .await?;
        let events = rows.iter().map(recorded).collect::<Result<_, _>>()?;
        Ok((events, total))
    }

    /// Where these memberships of the creator have ended, by their numbers.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn removals(
        &self,
        connection: &mut PgConnection,
        membership_numbers: &[u32],
    ) -> Result<BTreeMap<u32, i64>, sqlx::Error> {
        let (creator, since) = self.creator();
        let numbers: Vec<i64> = membership_numbers.iter().copied().map(i64::from).collect();
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "select (payload->>'membershipNumber')::bigint, max(position) from events
             where aggregate_type = 'member' and aggregate_id = $1 and position > $2 and event_type = 'member.removed'
               and (payload->>'membershipNumber')::bigint = any($3)
             group by 1",
        )
        .bind(creator)
        .bind(since)
        .bind(numbers)
        .fetch_all(connection)
        .await?;
        let ended = rows.into_iter();
        Ok(ended
            .filter_map(|(number, position)| Some((u32::try_from(number).ok()?, position)))
            .collect())
    }

    fn creator(&self) -> (Option<&str>, Option<i64>) {
        let creator = self.creator_stream.as_ref();
        creator.map(|(id, since)| (id.as_str(), *since)).unzip()
    }
}
