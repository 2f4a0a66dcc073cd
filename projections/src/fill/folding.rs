//! What is written at once: a chunk of the log, folded by the projectors' own code.

use std::sync::Arc;

use uuid::Uuid;

use super::Target;
use super::chunks::Chunk;
use crate::copy::NewRows;
use crate::log::{ReadLogError, RecordedEvent, WIDTH, recorded};
use crate::rebuild::RebuildError;
use crate::runner::{Held, ReadModel};

/// What is written at once.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) what: What,
    pub(super) events: usize,
    /// All organizations up to this one are complete with it; none: the last one goes on.
    pub(super) complete: Option<Uuid>,
}

#[derive(Debug)]
pub(super) enum What {
    /// New rows, for each target in their order.
    Rows(Vec<Vec<NewRows>>),
    /// Events of an organization of which there are rows already.
    Rest(Vec<Arc<RecordedEvent>>),
}

/// Folds chunks, each by itself, for these read models, of which some have more organizations already than others.
#[derive(Clone, Debug)]
pub(super) struct Folder(Vec<(ReadModel, Option<Uuid>)>);

impl Folder {
    pub(super) fn of(targets: &[Target]) -> Self {
        let target = |target: &Target| (target.read_model, target.complete);
        Self(targets.iter().map(target).collect())
    }

    /// What is to be written of a chunk.
    pub(super) fn fold(&self, chunk: &Chunk) -> Result<Unit, RebuildError> {
        let what = if chunk.is_rest {
            let events = events(chunk).map(|event| event.map(Arc::new));
            What::Rest(events.collect::<Result<_, _>>()?)
        } else {
            What::Rows(self.rows(chunk)?)
        };
        Ok(Unit {
            what,
            events: chunk.events,
            complete: chunk.complete,
        })
    }

    fn rows(&self, chunk: &Chunk) -> Result<Vec<Vec<NewRows>>, RebuildError> {
        let mut all: Vec<Held> = self
            .0
            .iter()
            .map(|(read_model, _)| read_model.nothing())
            .collect();
        let mut position = 0;
        for event in events(chunk) {
            let event = event?;
            position = event.position;
            let organization = event.organization_id.as_uuid();
            for ((read_model, complete), held) in self.0.iter().zip(&mut all) {
                if complete.is_none_or(|complete| organization > complete) {
                    held.apply(&event)
                        .map_err(|source| read_model.stopped(position, source))?;
                }
            }
        }
        let rows = self.0.iter().zip(all).map(|((read_model, _), held)| {
            let rows = held.all_new();
            rows.map_err(|source| read_model.stopped(position, source).into())
        });
        rows.collect()
    }
}

fn events(chunk: &Chunk) -> impl Iterator<Item = Result<RecordedEvent, ReadLogError>> {
    let rows = chunk.pieces.iter().flat_map(|piece| piece.rows::<WIDTH>());
    rows.map(|row| {
        let event = recorded(&row?)?;
        must_be_filed_right(&event)?;
        Ok(event)
    })
}

/// An event under another organization than its own would be taken before or after what it follows.
fn must_be_filed_right(event: &RecordedEvent) -> Result<(), ReadLogError> {
    if event.organization_id == event.fact.organization_id() {
        return Ok(());
    }
    Err(ReadLogError::Misfiled(event.position))
}
