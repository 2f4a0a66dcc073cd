//! What stands between a node and its database, to be cut, slowed down or held up.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// As it should be.
    Open,
    /// Every packet takes so long.
    Slow(Duration),
    /// Nothing comes through, and nobody is told.
    Silent,
    /// Connections break, and none is accepted.
    Cut,
}

/// A TCP proxy before a database; it is gone when it is dropped.
pub struct Proxy {
    /// The database's URL through it.
    pub url: String,
    lost: watch::Sender<()>,
    network: watch::Sender<Network>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn before(database_url: &str) -> Self {
        let (rest, path) = database_url.rsplit_once('/').expect("a path");
        let (user, server) = rest.rsplit_once('@').expect("a user");
        let server: SocketAddr = server.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("{user}@{}/{path}", listener.local_addr().expect("an address"));
        let (network, state) = watch::channel(Network::Open);
        let lost = watch::Sender::new(());
        let to_lose = lost.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() != Network::Cut {
                    tokio::spawn(connect(client, server, state.clone(), to_lose.subscribe()));
                }
            }
        });
        Self {
            url,
            lost,
            network,
            task,
        }
    }

    /// Nothing comes through any more on the connections that are there, and nobody is told; new ones work.
    pub fn lose(&self) {
        self.lost.send_replace(());
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.network.send_replace(Network::Cut);
    }
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    mut state: watch::Receiver<Network>,
    mut lost: watch::Receiver<()>,
) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (there, back) = (state.clone(), state.clone());
    let cut = state.wait_for(|network| *network == Network::Cut);
    let mut cut = std::pin::pin!(cut);
    tokio::select! {
        () = carry(&mut from_client, &mut to_server, there) => return,
        () = carry(&mut from_server, &mut to_client, back) => return,
        _ = &mut cut => return,
        _ = lost.changed() => {}
    }
    // Open at both ends.
    cut.await.ok();
}

async fn carry(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<Network>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        let network = *state.borrow();
        if let Network::Slow(delay) = network {
            tokio::time::sleep(delay).await;
        }
        if state
            .wait_for(|network| *network != Network::Silent)
            .await
            .is_err()
        {
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
