//! The log on its way into the tables: it is read while chunks that were read before are folded, some side by side, and those
//! that were folded before are written, in their order.

use std::thread::available_parallelism;

use sqlx::PgConnection;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use super::chunks::{Bounds, Chunk, Cutter};
use super::folding::{Folder, Unit};
use crate::copy::CopyOut;
use crate::log::{Place, by_organization};
use crate::rebuild::RebuildError;

/// Events in one read.
const READ: i64 = 50_000;
/// Bytes that are read at once.
const PIECE: usize = 512 * 1024;
/// Chunks, at most, that wait to be written, folded or not: the tables take no more.
const WAITING: usize = 4;

/// What is being folded; or that there is nothing more, or why not.
type Folding = Result<Option<JoinHandle<Result<Unit, RebuildError>>>, RebuildError>;

/// What is to be written, one after the other. Whoever drops it stops the reading.
#[derive(Debug)]
pub(super) struct Units {
    folding: Receiver<Folding>,
    reading: JoinSet<()>,
}

impl Units {
    /// Begins to read after a place.
    pub(super) fn after(
        place: Place,
        until: i64,
        connection: PgConnection,
        bounds: Bounds,
        folder: Folder,
    ) -> Self {
        let waiting = available_parallelism().map_or(1, usize::from).min(WAITING);
        let (chunks, folding) = mpsc::channel(waiting);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let folds = Folds { chunks, folder };
            let read = read_all(connection, Cutter::new(bounds, place), until, &folds).await;
            // Nobody has to be there any more.
            let _ = folds.chunks.send(read.map(|()| None)).await;
        });
        Self { folding, reading }
    }

    /// The next one; none where that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Unit>, RebuildError> {
        match self.folding.recv().await {
            Some(folding) => match folding? {
                Some(folding) => Ok(Some(folding.await??)),
                None => Ok(None),
            },
            // The reader has not come to its end.
            None => match self.reading.join_next().await {
                Some(Err(error)) => Err(error.into()),
                Some(Ok(())) | None => Err(sqlx::Error::WorkerCrashed.into()),
            },
        }
    }
}

/// Folds chunks side by side, and passes them on in their order.
struct Folds {
    chunks: Sender<Folding>,
    folder: Folder,
}

impl Folds {
    /// Takes one when its turn has come; false where nobody listens any more.
    async fn take(&self, chunk: Chunk) -> bool {
        let Ok(turn) = self.chunks.reserve().await else {
            return false;
        };
        let folder = self.folder.clone();
        turn.send(Ok(Some(spawn_blocking(move || folder.fold(&chunk)))));
        true
    }
}

async fn read_all(
    mut connection: PgConnection,
    mut cutter: Cutter,
    until: i64,
    folds: &Folds,
) -> Result<(), RebuildError> {
    loop {
        let place = cutter.place();
        let mut copy = CopyOut::begin(&mut connection, &by_organization(place, until, READ)).await?;
        while let Some(piece) = copy.next(PIECE).await? {
            for chunk in cutter.cut(piece)? {
                if !folds.take(chunk).await {
                    return Ok(());
                }
            }
        }
        if cutter.place() == place {
            let last = cutter.finish();
            if last.events > 0 {
                folds.take(last).await;
            }
            return Ok(());
        }
    }
}
