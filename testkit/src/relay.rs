//! A line between client and hub that a test can cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::wait::until;

/// Passes bytes to a hub and back until it is told to cut the lines.
pub struct Relay {
    address: SocketAddr,
    cut: watch::Sender<u32>,
    opened: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Relay {
    /// Starts one that connects to `hub` for each line.
    pub async fn start(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            cut: watch::Sender::new(0),
            opened: Arc::default(),
            ended: Arc::default(),
        };
        let (cuts, opened, ended) = (relay.cut.clone(), Arc::clone(&relay.opened), Arc::clone(&relay.ended));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, ended) = (cuts.subscribe(), Arc::clone(&ended));
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(hub).await.unwrap();
                    {
                        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
                        tokio::select! {
                            _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
                            _ = tokio::io::copy(&mut far_in, &mut near_out) => {}
                            _ = cut.changed() => {}
                        }
                    }
                    drop((near, far));
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        relay
    }

    /// The WebSocket URL of the hub behind it.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// How many lines there have been.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Waits for a line, then cuts all there are.
    pub async fn cut(&self) {
        until("a line", async || self.opened() > self.ended()).await;
        let opened = self.opened();
        self.cut.send_modify(|cuts| *cuts += 1);
        until("the lines to be cut", async || self.ended() >= opened).await;
    }
}
