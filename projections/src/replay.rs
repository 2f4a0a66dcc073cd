//! Read models filled anew together, from one reading of the log: first from nothing, up to where the log ended when it was
//! begun, then by the live loop's steps.

use futures_util::future::try_join_all;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::checkpoint::{self, Tables};
pub use crate::fill::Bounds;
use crate::fill::{Fill, Target};
use crate::log::head;
use crate::rebuild::{Rebuild, RebuildError};

/// Events that take no time worth mentioning.
const LITTLE: i64 = 100;

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To the end of the log, to be switched to.
    End,
    /// To where the live ones stand, to be compared.
    Live,
}

/// Some read models that are filled together.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    rebuilds: Vec<(Rebuild, i64)>,
    goal: Goal,
    bounds: Bounds,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Some may have to be filled, from nothing or from where that was interrupted.
    Unknown,
    Filling(Box<Fill>),
    Following,
}

/// How far one is that is being filled: up to where, and the last organization that is complete.
type Filled = (Option<i64>, Option<Uuid>);

impl Replay {
    /// Of these.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn of(pool: PgPool, rebuilds: Vec<Rebuild>, goal: Goal) -> Result<Self, RebuildError> {
        let mut connection = pool.acquire().await?;
        let until = match goal {
            Goal::End => head(&mut connection).await?,
            Goal::Live => live_position(&mut connection, &rebuilds).await?,
        };
        let mut all = Vec::new();
        for rebuild in rebuilds {
            // Those of which there is nothing yet are filled together.
            sqlx::query(
                "update read_models set fills_to = $3
                 where name = $1 and version = $2 and fills_to is not null and filled_organization is null",
            )
            .bind(rebuild.read_model().name())
            .bind(rebuild.version())
            .bind(until)
            .execute(&mut *connection)
            .await?;
            let position = rebuild.position().await?;
            all.push((rebuild, position));
        }
        drop(connection);
        Ok(Self {
            pool,
            rebuilds: all,
            goal,
            bounds: Bounds::default(),
            stage: Stage::Unknown,
        })
    }

    /// The same, by other bounds.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// How many events were taken, by all that are at it.
    #[must_use]
    pub fn position(&self) -> i64 {
        match &self.stage {
            Stage::Filling(fill) => fill.taken(),
            Stage::Unknown | Stage::Following => {
                let positions = self.rebuilds.iter().map(|(_, position)| *position);
                positions.min().unwrap_or(0)
            }
        }
    }

    /// Goes on; answers false where that has brought it near its goal: under load there is always something to come. After an
    /// error, it goes on from what was committed.
    ///
    /// # Errors
    /// [`RebuildError`]
    pub async fn step(&mut self) -> Result<bool, RebuildError> {
        match std::mem::replace(&mut self.stage, Stage::Unknown) {
            Stage::Unknown => {
                self.stage = match self.next_fill().await? {
                    Some(fill) => Stage::Filling(Box::new(fill)),
                    None => Stage::Following,
                };
                Ok(true)
            }
            Stage::Filling(fill) => {
                if let Some(fill) = fill.step().await? {
                    self.stage = Stage::Filling(Box::new(fill));
                }
                Ok(true)
            }
            Stage::Following => {
                let goes_on = self.follow().await?;
                self.stage = Stage::Following;
                Ok(goes_on)
            }
        }
    }

    /// Those that are to be filled up to the same position; none where all were.
    async fn next_fill(&mut self) -> Result<Option<Fill>, RebuildError> {
        let mut connection = self.pool.acquire().await?;
        let mut unfilled = Vec::new();
        for (rebuild, position) in &mut self.rebuilds {
            let (read_model, version) = (rebuild.read_model(), rebuild.version());
            let filled: Filled = sqlx::query_as(
                "select fills_to, filled_organization from read_models where name = $1 and version = $2",
            )
            .bind(read_model.name())
            .bind(version)
            .fetch_one(&mut *connection)
            .await?;
            *position = rebuild.position().await?;
            if let (Some(until), complete) = filled {
                unfilled.push((until, Target::new(read_model, version, complete)));
            }
        }
        drop(connection);
        let Some(until) = unfilled.iter().map(|(until, _)| *until).min() else {
            return Ok(None);
        };
        let together = unfilled.into_iter().filter(|(to, _)| *to == until);
        let targets = together.map(|(_, target)| target).collect();
        Fill::begin(self.pool.clone(), until, targets, self.bounds)
            .await
            .map(Some)
    }

    /// The live loop's step, of all of them.
    async fn follow(&mut self) -> Result<bool, RebuildError> {
        if self.goal == Goal::Live {
            return Ok(false);
        }
        let before = self.position();
        let steps = self.rebuilds.iter().map(|(rebuild, _)| rebuild.step());
        let positions = try_join_all(steps).await?;
        for ((_, position), now) in self.rebuilds.iter_mut().zip(positions) {
            *position = now;
        }
        Ok(self.position().saturating_sub(before) >= LITTLE)
    }

    /// The read models, to be switched to or compared.
    #[must_use]
    pub fn into_rebuilds(self) -> Vec<Rebuild> {
        self.rebuilds.into_iter().map(|(rebuild, _)| rebuild).collect()
    }
}

/// The position that all of the live ones have come to.
async fn live_position(connection: &mut PgConnection, rebuilds: &[Rebuild]) -> Result<i64, sqlx::Error> {
    let mut least = i64::MAX;
    for rebuild in rebuilds {
        let name = rebuild.read_model().name();
        let live = checkpoint::of_read_model(connection, name, Tables::Live).await?;
        least = least.min(live.position);
    }
    Ok(least)
}
