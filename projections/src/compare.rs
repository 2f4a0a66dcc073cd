//! Holds a read model that was filled anew against the live one, row by row, at one position.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::PgConnection;

use crate::rebuild::{Rebuild, RebuildError};
use crate::tables::tables;

/// Tries to find a moment at which both stand at one position.
const TRIES: u32 = 240;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(250);

/// A row that is not what the log makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// In which table.
    pub table: String,
    /// The row's key.
    pub key: Value,
    /// The row as it is live; none where it is missing.
    pub live: Option<Map<String, Value>>,
    /// The row as the log has it; none where it should not be there.
    pub replayed: Option<Map<String, Value>>,
}

impl fmt::Display for Difference {
    /// What a digest is, is never said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.table, self.key)?;
        match (&self.live, &self.replayed) {
            (Some(live), Some(replayed)) => {
                let mut separator = "";
                for (column, value) in live {
                    let other = replayed.get(column).unwrap_or(&Value::Null);
                    if value == other {
                        continue;
                    }
                    if column.contains("digest") {
                        write!(f, "{separator}{column} is another one")?;
                    } else {
                        write!(f, "{separator}{column} is {value}, a replay makes it {other}")?;
                    }
                    separator = "; ";
                }
                Ok(())
            }
            (Some(_), None) => f.write_str("a replay makes no such row"),
            (None, _) => f.write_str("the row is missing"),
        }
    }
}

/// How a read model compares to a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// At which position.
    pub position: i64,
    /// How many rows differ.
    pub differing: i64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// Compares a read model that has caught up with the live one, and shows at most so many differences.
///
/// # Errors
/// [`RebuildError`]
pub async fn compare(rebuild: &Rebuild, at_most: i64) -> Result<Comparison, RebuildError> {
    for _ in 0..TRIES {
        rebuild.follow_live().await?;
        if let Some((mut snapshot, live)) = rebuild.level_snapshot().await? {
            let mut comparison = Comparison {
                position: rebuild.position().await?,
                differing: 0,
                differences: Vec::new(),
            };
            for table in tables(&mut snapshot, rebuild.read_model(), rebuild.version()).await? {
                compare_table(
                    &mut snapshot,
                    &mut comparison,
                    (&live, &rebuild.schema()),
                    &table,
                    at_most,
                )
                .await?;
            }
            return Ok(comparison);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(RebuildError::NoMoment(rebuild.read_model().name()))
}

async fn compare_table(
    snapshot: &mut PgConnection,
    comparison: &mut Comparison,
    (live, replayed): (&str, &str),
    table: &str,
    at_most: i64,
) -> Result<(), RebuildError> {
    let key: Vec<String> = sqlx::query_scalar(
        "select quote_ident(a.attname) from pg_index i
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
         where i.indrelid = ($1 || '.' || $2)::regclass and i.indisprimary
         order by array_position(i.indkey::int2[], a.attnum)",
    )
    .bind(live)
    .bind(table)
    .fetch_all(&mut *snapshot)
    .await?;
    let keys = key.join(", ");
    let names: Vec<String> = sqlx::query_scalar(
        "select quote_ident(attname) || case atttypid when 'json'::regtype then '::jsonb' else '' end from pg_attribute
         where attrelid = ($1 || '.' || $2)::regclass and attnum > 0 and not attisdropped
         order by attnum",
    )
    .bind(live)
    .bind(table)
    .fetch_all(&mut *snapshot)
    .await?;
    let row = |side: &str| {
        let columns = names.iter().map(|name| format!("{side}.{name}"));
        columns.collect::<Vec<_>>().join(", ")
    };
    // As text: nothing makes one text of two values. JSON by what it says: white space that another version of the service has
    // written is no difference.
    let differing = format!(
        "from {live}.{table} l full join {replayed}.{table} r using ({keys})
         where row({})::text is distinct from row({})::text",
        row("l"),
        row("r")
    );
    let count: i64 = sqlx::query_scalar(&format!("select count(*) {differing}"))
        .fetch_one(&mut *snapshot)
        .await?;
    comparison.differing = comparison.differing.saturating_add(count);
    if count == 0 {
        return Ok(());
    }
    let room = at_most.saturating_sub(i64::try_from(comparison.differences.len()).unwrap_or(i64::MAX));
    let rows: Vec<(Value, Option<Value>, Option<Value>)> = sqlx::query_as(&format!(
        "select (select to_json(k) from (select {keys}) k), to_json(l), to_json(r) {differing} order by {keys} limit $1"
    ))
    .bind(room)
    .fetch_all(snapshot)
    .await?;
    comparison
        .differences
        .extend(rows.into_iter().map(|(key, live, replayed)| Difference {
            table: table.to_owned(),
            key,
            live: columns(live),
            replayed: columns(replayed),
        }));
    Ok(())
}

fn columns(row: Option<Value>) -> Option<Map<String, Value>> {
    match row {
        Some(Value::Object(columns)) => Some(columns),
        _ => None,
    }
}
