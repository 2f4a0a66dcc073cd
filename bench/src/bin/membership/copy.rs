//! The least that can be done: a poll loop of rdkafka, and each poll's bytes inserted by one statement and committed, with
//! where it came from. Nothing is looked at.

use std::error::Error;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::PgPool;

use crate::print;

/// How long the brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Copy {
    /// Brokers
    #[arg(long)]
    kafka: String,
    /// Topic
    #[arg(long)]
    topic: String,
    /// The database
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// Where to begin in each partition, as 0:17,1:4; from the beginning otherwise
    #[arg(long, default_value = "")]
    from: String,
    /// Messages in one statement
    #[arg(long, default_value_t = 2000)]
    batch: usize,
}

impl Copy {
    pub(crate) async fn run(self) -> Result<(), Box<dyn Error>> {
        let pool = PgPool::connect(&self.database_url).await?;
        sqlx::raw_sql(
            "create table if not exists raw_messages (partition int not null, message_offset bigint not null,
                key bytea, value bytea, primary key (partition, message_offset));
             truncate raw_messages",
        )
        .execute(&pool)
        .await?;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("group.id", "bench-copy")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .create()?;
        let mut left = self.assign(&consumer)?;
        let total = left;
        let started = Instant::now();
        while left > 0 {
            let taken = self.copy_batch(&consumer, &pool).await?;
            left = left.saturating_sub(taken);
        }
        Ok(print(&format!("{total} {}", started.elapsed().as_millis()))?)
    }

    /// How many messages there are to read.
    fn assign(&self, consumer: &BaseConsumer) -> Result<i64, Box<dyn Error>> {
        let from: Vec<(i32, i64)> = self
            .from
            .split(',')
            .filter_map(|part| {
                let (partition, offset) = part.split_once(':')?;
                Some((partition.parse().ok()?, offset.parse().ok()?))
            })
            .collect();
        let metadata = consumer.fetch_metadata(Some(&self.topic), PATIENCE)?;
        let mut list = TopicPartitionList::new();
        let mut total: i64 = 0;
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (low, high) = consumer.fetch_watermarks(&self.topic, partition.id(), PATIENCE)?;
            let begin = from
                .iter()
                .find(|(id, _)| *id == partition.id())
                .map_or(low, |(_, at)| *at);
            total = total.saturating_add(high.saturating_sub(begin));
            list.add_partition_offset(&self.topic, partition.id(), Offset::Offset(begin))?;
        }
        consumer.assign(&list)?;
        Ok(total)
    }

    async fn copy_batch(&self, consumer: &BaseConsumer, pool: &PgPool) -> Result<i64, Box<dyn Error>> {
        let (mut partitions, mut offsets, mut keys, mut values) = (vec![], vec![], vec![], vec![]);
        let mut wait = Duration::from_millis(100);
        while partitions.len() < self.batch {
            match consumer.poll(wait) {
                None => break,
                Some(message) => {
                    let message = message?;
                    partitions.push(message.partition());
                    offsets.push(message.offset());
                    keys.push(message.key().map(<[u8]>::to_vec));
                    values.push(message.payload().map(<[u8]>::to_vec));
                }
            }
            wait = Duration::ZERO;
        }
        let count = i64::try_from(partitions.len())?;
        if count > 0 {
            sqlx::query("insert into raw_messages select * from unnest($1::int[], $2::bigint[], $3::bytea[], $4::bytea[])")
                .bind(partitions)
                .bind(offsets)
                .bind(keys)
                .bind(values)
                .execute(pool)
                .await?;
        }
        Ok(count)
    }
}
