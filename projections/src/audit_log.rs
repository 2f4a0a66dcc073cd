//! What happened in an organization, for those who audit it: the log itself, filtered and paged by position, so that a
//! page doesn't shift while events arrive. Digests are not searched.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::{MemberId, OrganizationId};
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use uuid::{Builder, Uuid};

use crate::log::{ReadLogError, RecordedEvent, recorded};

/// Which events to show; what is absent does not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In the event's type or its payload's text, without regard to case.
    pub text: Option<String>,
    /// Done by this member.
    pub actor_id: Option<MemberId>,
    /// `access_token`, `member` or `organization`; any other matches nothing.
    pub ref_type: Option<String>,
    /// To this token, member or organization.
    pub ref_id: Option<Uuid>,
    /// Not before this millisecond.
    pub from: Option<DateTime<Utc>>,
    /// Not after this millisecond.
    pub to: Option<DateTime<Utc>>,
}

/// A page of events, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// How many match the filter, on all pages.
    pub total: i64,
    /// This page's.
    pub items: Vec<AuditedEvent>,
}

/// An event as auditors see it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditedEvent {
    /// The first half of its hash in the chain, as a UUID of version 8.
    pub id: Uuid,
    /// To what it happened: `access_token`, `member`, `organization`.
    pub ref_type: String,
    /// To which.
    pub ref_id: String,
    /// What happened.
    pub event: RecordedEvent,
}

/// $1 is the organization. A member's stream is called by the organization's id and its own.
const MATCHING: &str = "
    from events
    where organization_id = $1
      and position > coalesce(last_position_at($2), 0)
      and position <= coalesce(last_position_at($3), 9223372036854775807)
      and ($4::text is null or metadata->>'actor' = $4)
      and ($5::text is null or aggregate_type = $5)
      and ($6::text is null or aggregate_id in ($6, $1::text || ':' || $6))
      and ($7::text[] is null
           or event_says(event_type, payload, (select array_agg(folded(text)) from unnest($7) as wanted (text))))";

/// A page of the organization's events below a position, newest first.
///
/// # Errors
/// [`ReadLogError`]
pub async fn read(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    filter: &Filter,
    below: Option<i64>,
    limit: i64,
) -> Result<Page, ReadLogError> {
    let total = format!("select count(*) {MATCHING}");
    let total = matching(&total, organization_id, filter)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let page = format!(
        "select position, recorded_at, organization_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
                metadata, hash
         {MATCHING} and position < $8 order by position desc limit $9"
    );
    let rows = matching(&page, organization_id, filter)
        .bind(below.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    let items = rows.iter().map(audited).collect::<Result<_, _>>()?;
    Ok(Page { total, items })
}

fn matching<'q>(
    sql: &'q str,
    organization_id: OrganizationId,
    filter: &Filter,
) -> Query<'q, Postgres, PgArguments> {
    // The log's times are finer than a millisecond.
    let before = filter
        .from
        .and_then(|from| from.checked_sub_signed(TimeDelta::microseconds(1)));
    let until = filter
        .to
        .and_then(|to| to.checked_add_signed(TimeDelta::microseconds(999)));
    sqlx::query(sql)
        .bind(organization_id.as_uuid())
        .bind(before)
        .bind(until)
        .bind(filter.actor_id.map(|actor_id| format!("member:{actor_id}")))
        .bind(filter.ref_type.clone())
        .bind(filter.ref_id.map(|ref_id| ref_id.to_string()))
        .bind(filter.text.as_deref().map(spellings))
}

/// The text as it was given, and as it stands in a JSON string.
fn spellings(text: &str) -> Vec<String> {
    let quoted = Value::from(text).to_string();
    let escaped = quoted
        .strip_prefix('"')
        .and_then(|quoted| quoted.strip_suffix('"'))
        .unwrap_or_default();
    let mut spellings = vec![text.to_owned(), escaped.to_owned()];
    spellings.dedup();
    spellings
}

fn audited(row: &PgRow) -> Result<AuditedEvent, ReadLogError> {
    let event = recorded(row)?;
    let hash: Vec<u8> = row.try_get("hash")?;
    let mut id = [0; 16];
    for (byte, of_hash) in id.iter_mut().zip(hash) {
        *byte = of_hash;
    }
    let ref_id = match event.aggregate_id.split_once(':') {
        Some((_, member_id)) => member_id.to_owned(),
        None => event.aggregate_id.clone(),
    };
    Ok(AuditedEvent {
        id: Builder::from_custom_bytes(id).into_uuid(),
        ref_type: row.try_get("aggregate_type")?,
        ref_id,
        event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_searched_for_as_it_is_and_as_json_writes_it() {
        assert_eq!(spellings("deploy"), ["deploy"]);
        assert_eq!(spellings(r#"a "b" \"#), [r#"a "b" \"#, r#"a \"b\" \\"#]);
    }
}
