//! The log on its way into the tables: it is read while chunks that were read before are folded, some side by side, and those that were folded before are written, in their order. Whoever stops listening stops all of
//! it.

use std::thread::available_parallelism;

use sqlx::PgConnection;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinHandle, spawn_blocking};

use super::chunks::{Bounds, Chunk, Cutter};
use super::units::{Folder, Unit};
use crate::copy::{CopyOut, StoredRow};
use crate::log::{Place, WIDTH, by_organization};
use crate::rebuild::RebuildError;

/// Events in one read.
const READ: i64 = 50_000;
/// Bytes that are read at once.
const PIECE: usize = 512 * 1024;
/// Chunks, at most, that are folded side by side: the tables take no more.
const MOST: usize = 4;

/// What is being folded; or that there is nothing more, or why not.
pub(super) type Folding = Result<Option<JoinHandle<Result<Unit, RebuildError>>>, RebuildError>;

/// Begins to read after a place; answers what comes of it, in its order.
pub(super) fn start(
    connection: PgConnection,
    place: Place,
    until: i64,
    (bounds, folder): (Bounds, Folder),
) -> Receiver<Folding> {
    let (units, folding) = mpsc::channel(available_parallelism().map_or(1, usize::from).min(MOST));
    tokio::spawn(async move {
        let pass_on = PassOn { units, folder };
        let read = read_all(connection, place, until, bounds, &pass_on).await;
        // Nobody has to be there any more.
        let _ = pass_on.units.send(read.map(|()| None)).await;
    });
    folding
}

/// Passes chunks on to be folded.
struct PassOn {
    units: Sender<Folding>,
    folder: Folder,
}

impl PassOn {
    /// Waits for its turn; false where nobody listens any more.
    async fn chunk(&self, chunk: Chunk) -> bool {
        let Ok(turn) = self.units.reserve().await else {
            return false;
        };
        let folder = self.folder.clone();
        turn.send(Ok(Some(spawn_blocking(move || folder.fold(&chunk)))));
        true
    }
}

async fn read_all(
    mut connection: PgConnection,
    mut place: Place,
    until: i64,
    bounds: Bounds,
    pass_on: &PassOn,
) -> Result<(), RebuildError> {
    let mut cutter = Cutter::new(bounds);
    loop {
        let mut copy = CopyOut::begin(&mut connection, &by_organization(place, until, READ)).await?;
        let before = place;
        while !copy.is_all() {
            let piece = copy.next(PIECE).await?;
            if let Some(last) = piece.last::<WIDTH>()? {
                place = (last.get(2)?, last.get(0)?);
            }
            for chunk in cutter.cut(piece)? {
                if !pass_on.chunk(chunk).await {
                    return Ok(());
                }
            }
        }
        if place == before {
            let chunk = cutter.finish();
            if chunk.events > 0 {
                pass_on.chunk(chunk).await;
            }
            return Ok(());
        }
    }
}
