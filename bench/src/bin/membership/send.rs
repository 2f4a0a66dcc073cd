//! Sends a story, in its order, by a producer that loses and repeats nothing of its own.

use std::error::Error;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use bench::membership::{Said, Story};

use crate::print;

/// How long everything may take to be with the broker.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Send {
    #[command(flatten)]
    story: Story,
    /// Brokers
    #[arg(long)]
    kafka: String,
    /// Topic
    #[arg(long)]
    topic: String,
    /// Only the first event of every member
    #[arg(long, conflicts_with = "rest")]
    beginning: bool,
    /// Only what comes after that
    #[arg(long)]
    rest: bool,
    /// At most so many a second; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        let mut said = Vec::new();
        if !self.rest {
            said.extend(self.story.beginning());
        }
        if !self.beginning {
            said.extend(self.story.rest());
        }
        self.send(&said)?;
        Ok(print(&said.len().to_string())?)
    }

    fn send(&self, said: &[Said]) -> Result<(), Box<dyn Error>> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "200000")
            // A broker that is stopped comes back.
            .set("message.timeout.ms", "300000")
            .create()?;
        let started = std::time::Instant::now();
        for (nth, one) in (1_u64..).zip(said) {
            let (key, value) = self.story.message(*one);
            let mut record: BaseRecord<'_, str, str> = BaseRecord::to(&self.topic).payload(&value);
            record.key = key.as_deref();
            loop {
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        producer.poll(Duration::from_millis(10));
                        record = back;
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
            if nth % 256 == 0 {
                producer.poll(Duration::ZERO);
                if let Some(due) = nth.saturating_mul(1000).checked_div(self.rate) {
                    let due = Duration::from_millis(due);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
            }
        }
        producer.flush(PATIENCE)?;
        Ok(())
    }
}
