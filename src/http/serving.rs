//! Connections, from the listener to an answer. The two questions that gateways ask for each request they have in hand are
//! answered here, with no router between; whatever else comes goes through it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use axum::response::Response;
use futures_util::StreamExt;
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
        let answer = service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        let mut serving = pin!(serving);
        // Looked at only where it wakes: the token is shared by all connections, which are woken at each of their requests.
        let mut stopped = FuturesUnordered::from_iter([stop.cancelled()]);
        let ended = tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            _ = stopped.next() => {
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
