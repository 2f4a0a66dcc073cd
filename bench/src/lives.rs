//! Fills an empty log with organizations' lives.

use featbit_tokens::log::{AppendOutcome, Appender};
use featbit_tokens::report::Report;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::draw::Draw;
use crate::life::Life;

/// Writers at the same time: their requests share a batch.
const AT_ONCE: usize = 4;
/// Events in one request.
const REQUEST: usize = 250;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Events in all.
    pub events: usize,
    /// Organizations they happen in.
    pub organizations: usize,
    /// Members of each.
    pub members: usize,
}

/// Fills the log through the real appender; the same seed makes the same lives.
///
/// # Errors
/// What went wrong, in words.
pub async fn fill(pool: &PgPool, size: Size, seed: u64) -> Result<(), String> {
    let stop = CancellationToken::new();
    let (appender, task) = Appender::new(pool.clone());
    let (lived, ()) = tokio::join!(
        async {
            let mut writers = JoinSet::new();
            for writer in 0..AT_ONCE {
                writers.spawn(share(size, seed, appender.clone(), writer));
            }
            let mut lived = Ok(());
            while let Some(done) = writers.join_next().await {
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => lived = Err(error),
                    Err(error) => lived = Err(error.to_string()),
                }
            }
            stop.cancel();
            lived
        },
        task.run(stop.clone())
    );
    lived?;
    // So that the database plans for what is there.
    let settled = sqlx::raw_sql("vacuum analyze").execute(pool).await;
    settled.map(|_| ()).map_err(|error| Report(&error).to_string())
}

/// Every so-many-eth organization, a request of each in turn: their events stand between each other's.
async fn share(size: Size, seed: u64, appender: Appender, writer: usize) -> Result<(), String> {
    let numbers = (writer..size.organizations).step_by(AT_ONCE);
    let life = |number| Life::new(Draw::new(seed, u64::try_from(number).unwrap_or(0)), size.members);
    let mut lives: Vec<Life> = numbers.map(life).collect();
    let even = size.events.checked_div(AT_ONCE).unwrap_or(0);
    let rest = size.events.checked_rem(AT_ONCE).unwrap_or(0);
    let mut left = even.saturating_add(usize::from(writer < rest));
    while left > 0 && !lives.is_empty() {
        for life in &mut lives {
            let events = left.min(REQUEST);
            if events == 0 {
                break;
            }
            let request = life.next(events).map_err(|error| error.to_string())?;
            match appender.append(request).await {
                Ok(AppendOutcome::Appended { .. }) => left = left.saturating_sub(events),
                Ok(other) => return Err(format!("the log is not empty: {other:?}")),
                Err(error) => return Err(Report(&error).to_string()),
            }
        }
    }
    Ok(())
}
