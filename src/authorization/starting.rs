//! What an index starts from: a snapshot of the read model of credentials, which is what a replay up to its position would
//! have made of the log, in a fraction of the time.

use std::time::Duration;

use projections::credentials::{CreatorReader, CredentialRow, Snapshot, SnapshotError, TokenReader};
use sqlx::PgPool;
use uuid::Uuid;

use super::contents::{Builder, Contents};
use crate::database::{STATEMENT_LIMIT, within};

/// How long a page of the snapshot is waited for, with the connection it comes by.
const PAGE_LIMIT: Duration = STATEMENT_LIMIT.saturating_mul(2);

/// Contents up to a position, and of which log they are.
pub(super) struct Start {
    pub(super) contents: Contents,
    /// The hash of the event at their position; none at position 0.
    pub(super) hash: Option<Vec<u8>>,
    pub(super) epoch: Uuid,
}

/// Reads all of it.
///
/// # Errors
/// [`SnapshotError`]
pub(super) async fn read(pool: &PgPool) -> Result<Start, SnapshotError> {
    let mut snapshot = within(PAGE_LIMIT, Snapshot::begin(pool)).await?;
    let mut builder = Builder::with_room_for(snapshot.tokens());
    let mut reader = CreatorReader::default();
    loop {
        let page = within(PAGE_LIMIT, snapshot.next_creators()).await?;
        if page.is_empty() {
            break;
        }
        for (key, creator) in reader.read(page)? {
            builder.add_member(key, creator.member, creator.sequence, creator.has_ended);
        }
    }
    let mut reader = TokenReader::default();
    let mut page = within(PAGE_LIMIT, snapshot.next()).await?;
    while !page.is_empty() {
        let (next, added) = tokio::join!(
            // Asked for first, so that the database works on it meanwhile.
            within(PAGE_LIMIT, snapshot.next()),
            async {
                for CredentialRow {
                    token_id,
                    creator_id,
                    created_position,
                    credential,
                } in reader.read(&page)?
                {
                    builder.add_token(token_id, creator_id, created_position, credential);
                }
                Ok::<_, SnapshotError>(())
            }
        );
        added?;
        page = next?;
    }
    Ok(Start {
        contents: builder.finish(snapshot.position()),
        hash: snapshot.hash().map(<[u8]>::to_vec),
        epoch: snapshot.epoch(),
    })
}
