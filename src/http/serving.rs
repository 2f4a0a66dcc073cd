//! Connections, from the listener to an answer. The two questions that gateways ask for each request they have in hand are
//! answered here, with no router between; whatever else comes goes through it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::gateway::{Form, admit};
use super::{Service, evaluation, forward_auth, router};

/// After the listener could give out no connection: there may be too many.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long nothing is asked on a connection before it is closed, half a request included; up to twice as long. Gateways keep
/// theirs for as long as nginx does, a minute.
const IDLE: Duration = Duration::from_secs(60);

/// Serves the API until it is told to stop; then requests under way are answered, and nothing new is taken.
pub async fn serve(listener: TcpListener, service: Service, stop: CancellationToken) {
    let router = router(service.clone());
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection {
                    service: service.clone(),
                    router: router.clone(),
                    peer,
                    requests: Requests::default(),
                };
                connections.spawn(connection.serve(stream, stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// It was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

struct Connection {
    service: Service,
    router: Router,
    peer: SocketAddr,
    requests: Requests,
}

/// How many there were on one connection.
#[derive(Default)]
struct Requests {
    begun: AtomicUsize,
    answered: AtomicUsize,
}

impl Connection {
    async fn serve(self, stream: TcpStream, stop: CancellationToken) {
        // An answer is written in one piece: there is nothing to gather.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection has ended at once");
            return;
        }
        // Of its own, so that no two processors share the count of who holds it.
        let connection = Arc::new(self);
        let answering = Arc::clone(&connection);
        let answer = service_fn(move |request| {
            let connection = Arc::clone(&answering);
            async move {
                connection.requests.begun.fetch_add(1, Ordering::Relaxed);
                let response = connection.answer(request).await;
                connection.requests.answered.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        let mut serving = pin!(serving);
        let (stopped, idle) = (pin!(stop.cancelled()), pin!(connection.requests.idle(IDLE)));
        // Looked at only where one of them wakes: each request of each connection wakes this task, and the token is shared.
        let mut others = FuturesUnordered::from_iter([select(stopped, idle)]);
        let ended = tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            other = others.next() => {
                if let Some(Either::Right(_)) = other {
                    return;
                }
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection has broken off");
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response {
        let (service, peer) = (&self.service, self.peer.ip());
        match request.uri().path() {
            evaluation::PATH if request.method() == Method::POST => {
                admit(Form::AuthZen, service, peer, request, async |request| {
                    evaluation::answer(service, request).await
                })
                .await
            }
            forward_auth::PATH => {
                admit(Form::FeatBit, service, peer, request, async |request| {
                    forward_auth::answer(service, peer, request).await
                })
                .await
            }
            _ => {
                request.extensions_mut().insert(ConnectInfo(self.peer));
                // Boxed: the future of the two above, which each request moves about, stays small.
                let answer = self.router.clone().oneshot(request.map(Body::new));
                Box::pin(answer).await.unwrap_or_else(|never| match never {})
            }
        }
    }
}

impl Requests {
    /// Ends where nothing was asked for this long, and nothing is left to answer.
    async fn idle(&self, period: Duration) {
        let mut before = None;
        loop {
            tokio::time::sleep(period).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if before == Some(begun) && self.answered.load(Ordering::Relaxed) == begun {
                return;
            }
            before = Some(begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(5);

    async fn ends(requests: &Requests, within: u32) -> bool {
        tokio::time::timeout(PERIOD * within, requests.idle(PERIOD))
            .await
            .is_ok()
    }

    /// Tried: `idle` that never ends; one that does not look at what is answered.
    #[tokio::test]
    async fn a_connection_is_idle_where_nothing_is_asked_and_nothing_left_to_answer() {
        let requests = Requests::default();
        assert!(ends(&requests, 200).await, "nothing was ever asked");
        requests.begun.fetch_add(1, Ordering::Relaxed);
        assert!(!ends(&requests, 20).await, "it is being answered");
        requests.answered.fetch_add(1, Ordering::Relaxed);
        assert!(ends(&requests, 200).await);
    }

    /// Tried: `idle` that does not look at how many were begun before.
    #[tokio::test]
    async fn a_connection_on_which_something_is_asked_again_and_again_is_not_idle() {
        let requests = Requests::default();
        let asking = async {
            for _ in 0..60 {
                requests.begun.fetch_add(1, Ordering::Relaxed);
                requests.answered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PERIOD / 5).await;
            }
        };
        let idle = requests.idle(PERIOD * 4);
        tokio::select! {
            biased;
            () = asking => {}
            () = idle => panic!("it was asked all the time"),
        }
    }
}
