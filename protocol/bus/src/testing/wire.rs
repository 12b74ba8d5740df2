//! A wire between two servers that can be cut, slowed down or left hanging.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What a wire does to what passes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Ends every connection, and every new one.
    Cut,
    /// Keeps every connection and carries nothing; what waits is carried when it ends.
    Hang,
    /// Carries each piece late, and no more than so many bytes a second in each direction.
    Slow {
        /// How late.
        delay: Duration,
        /// Bytes a second.
        bytes_per_s: u64,
    },
}

/// A TCP proxy on loopback. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    carried: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    /// A wire to `port` of loopback.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (fault, faults) = watch::channel(Fault::None);
        let carried = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, port, faults, Arc::clone(&carried)));
        Self { address, fault, carried, task }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a fault on it, or takes it away.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Bytes that it has carried, both ways.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pieces that are under way in one direction; with [`PIECE`] this is the wire's buffer.
const PIECES: usize = 64;
/// Bytes of one piece.
const PIECE: usize = 4 * 1024;

async fn serve(listener: TcpListener, port: u16, faults: watch::Receiver<Fault>, carried: Arc<AtomicU64>) {
    let mut pairs = tokio::task::JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while pairs.try_join_next().is_some() {}
        let (mut faults, carried) = (faults.clone(), Arc::clone(&carried));
        pairs.spawn(async move {
            if *faults.borrow() == Fault::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            let (up, down) = (faults.clone(), faults.clone());
            tokio::select! {
                () = carry(near_in, far_out, up, &carried) => {}
                () = carry(far_in, near_out, down, &carried) => {}
                _ = faults.wait_for(|fault| *fault == Fault::Cut) => {}
            }
        });
    }
}

/// Carries one direction, until either end is closed.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: watch::Receiver<Fault>, carried: &AtomicU64) {
    let (pieces, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let mut hangs = faults.clone();
    let read = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let Ok(len @ 1..) = from.read(&mut buffer).await else { return };
            let fault = *faults.borrow();
            let delay = match fault {
                Fault::Slow { delay, bytes_per_s } => {
                    tokio::time::sleep(Duration::from_millis(len as u64 * 1_000 / bytes_per_s)).await;
                    delay
                }
                Fault::None | Fault::Cut | Fault::Hang => Duration::ZERO,
            };
            if pieces.send((Instant::now() + delay, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if hangs.wait_for(|fault| *fault != Fault::Hang).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
            carried.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::join!(read, write);
}
