//! What an index starts from: a snapshot of the read model of credentials, which is what a replay up to its position would
//! have made of the log, in a fraction of the time. It is read while what was read before is put in its place.

use std::time::Duration;

use projections::credentials::{CreatorReader, Page, Pages, Snapshot, SnapshotError, TokenReader};
use sqlx::PgPool;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::contents::{Builder, Contents};
use crate::database::{STATEMENT_LIMIT, within};
use crate::joined::joined;

/// How long a page of the snapshot is waited for.
const PAGE_LIMIT: Duration = STATEMENT_LIMIT.saturating_mul(2);
/// Pages that wait to be put in their place.
const WAITING: usize = 4;

/// Contents up to a position, and of which log they are.
pub(super) struct Start {
    pub(super) contents: Contents,
    /// The hash of the event at their position; none at position 0.
    pub(super) hash: Option<Vec<u8>>,
    pub(super) epoch: Uuid,
}

/// A part of the snapshot.
enum Part {
    Members(Page),
    Tokens(Page),
}

/// Reads all of it.
///
/// # Errors
/// [`SnapshotError`]
pub(super) async fn read(pool: &PgPool) -> Result<Start, SnapshotError> {
    let mut snapshot = within(PAGE_LIMIT, Snapshot::begin(pool)).await?;
    let builder = Builder::with_room_for(snapshot.tokens());
    let position = snapshot.position();
    let (parts, waiting) = mpsc::channel(WAITING);
    let building =
        spawn_blocking(move || put_together(builder, waiting).map(|builder| builder.finish(position)));
    let passed_on = pass_all_on(&mut snapshot, parts).await;
    // First what kept it from listening to the end.
    let contents = joined(building.await).ok_or(sqlx::Error::WorkerCrashed)??;
    passed_on?;
    Ok(Start {
        contents,
        hash: snapshot.hash().map(<[u8]>::to_vec),
        epoch: snapshot.epoch(),
    })
}

async fn pass_all_on(snapshot: &mut Snapshot, parts: Sender<Part>) -> Result<(), SnapshotError> {
    let members = within(PAGE_LIMIT, snapshot.creators()).await?;
    if pass_on(members, &parts, Part::Members).await? {
        let tokens = within(PAGE_LIMIT, snapshot.credentials()).await?;
        pass_on(tokens, &parts, Part::Tokens).await?;
    }
    Ok(())
}

/// False where nobody listens any more.
async fn pass_on(
    mut pages: Pages<'_>,
    parts: &Sender<Part>,
    part: impl Fn(Page) -> Part,
) -> Result<bool, SnapshotError> {
    while let Some(page) = within(PAGE_LIMIT, pages.next()).await? {
        if parts.send(part(page)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn put_together(mut builder: Builder, mut parts: Receiver<Part>) -> Result<Builder, SnapshotError> {
    let (mut creators, mut tokens) = (CreatorReader::default(), TokenReader::default());
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Members(page) => {
                for (key, creator) in creators.read(&page)? {
                    builder.add_member(key, creator);
                }
            }
            Part::Tokens(page) => {
                for row in tokens.read(&page, |rules| builder.share(rules))? {
                    builder.add_token(row);
                }
            }
        }
    }
    Ok(builder)
}
