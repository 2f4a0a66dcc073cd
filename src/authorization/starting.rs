//! What an index starts from: a snapshot of the read model of credentials, which is what a replay up to its position would
//! have made of the log, in a fraction of the time.

use projections::credentials::{CredentialRow, SharedCreator, Snapshot, SnapshotError, TokenReader};
use sqlx::PgPool;
use uuid::Uuid;

use super::contents::{Builder, Contents};

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
    let mut snapshot = Snapshot::begin(pool).await?;
    let mut builder = Builder::with_room_for(snapshot.tokens());
    for (
        key,
        SharedCreator {
            member,
            sequence,
            has_ended,
        },
    ) in snapshot.creators().await?
    {
        builder.add_member(key, member, sequence, has_ended);
    }
    let mut reader = TokenReader::default();
    let mut page = snapshot.next().await?;
    while !page.is_empty() {
        let (next, added) = tokio::join!(
            // Asked for first, so that the database works on it meanwhile.
            snapshot.next(),
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
