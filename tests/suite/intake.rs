//! Membership events on their way from the topic to decisions. Every test is a function of a broker, and runs on the
//! embedded one and, where TEST_KAFKA_BOOTSTRAP_SERVERS names one, on Apache Kafka.

mod broker;
mod events;
mod once;
mod outages;
mod over_http;
mod parked;
mod releasing;
mod removals;
mod soak;
mod somebody;
mod stamina;
mod watched;

/// Each function once per broker.
macro_rules! on_each_broker {
    ($($test:ident),+ $(,)?) => {
        mod on_the_embedded_broker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::intake::broker::Broker::embedded()).await;
            })+
        }
        mod on_apache_kafka {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some(broker) = crate::intake::broker::Broker::apache() {
                    super::$test(broker).await;
                }
            })+
        }
    };
}
pub(crate) use on_each_broker;
