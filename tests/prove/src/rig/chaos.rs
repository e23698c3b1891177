//! A TCP proxy that can do to a link what networks do.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use super::ports::free_address;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece is late by so much.
    Latency(Duration),
    /// Connections are accepted, and nothing passes.
    Blackhole,
    /// Nobody listens, and what was connected is reset.
    Refuse,
    /// Every connection ends with a RST.
    Reset,
    /// Every connection ends with a FIN.
    Fin,
    /// Of each direction of a connection only so many bytes pass; then it hangs.
    StallAfter(usize),
    /// Bytes a second.
    Slow(usize),
    /// Pieces of at most so many bytes.
    Split(usize),
}

/// One link: listens on its own port for as long as it lives.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    running: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Link {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let address = free_address();
        let listener = TcpListener::bind(address).await.unwrap();
        let (mode, seen) = watch::channel(Mode::Pass);
        let running = tokio::spawn(listen(listener, address, target, seen));
        Self { address, mode, running }
    }

    /// Acts on connections that stand as well.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn listen(listener: TcpListener, address: SocketAddr, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let mut listener = Some(listener);
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            listener = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(open) = &listener else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(connect(client, target, mode.clone()));
            },
            changed = mode.changed() => if changed.is_err() { return },
        }
    }
}

async fn connect(mut client: TcpStream, target: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let _ = client.set_nodelay(true);
    if let Some(is_reset) = passes(&mut mode).await {
        return end(&client, is_reset);
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    let ended = {
        let ((client_reads, client_writes), (server_reads, server_writes)) = (client.split(), server.split());
        let there = carry(client_reads, server_writes, mode.clone());
        let back = carry(server_reads, client_writes, mode.clone());
        tokio::select! {
            both = async { tokio::try_join!(there, back) } => both.is_err(),
            is_reset = ended_by_order(mode) => is_reset,
        }
    };
    end(&client, ended);
    end(&server, ended);
}

/// Waits until connections are let through; else whether they end with a RST.
async fn passes(mode: &mut watch::Receiver<Mode>) -> Option<bool> {
    loop {
        match *mode.borrow_and_update() {
            Mode::Blackhole => {}
            Mode::Reset | Mode::Refuse => return Some(true),
            Mode::Fin => return Some(false),
            _ => return None,
        }
        if mode.changed().await.is_err() {
            return Some(true);
        }
    }
}

/// Returns when connections are to end, with whether by a RST.
async fn ended_by_order(mut mode: watch::Receiver<Mode>) -> bool {
    loop {
        match *mode.borrow_and_update() {
            Mode::Reset | Mode::Refuse => return true,
            Mode::Fin => return false,
            _ => {}
        }
        if mode.changed().await.is_err() {
            return true;
        }
    }
}

fn end(stream: &TcpStream, is_reset: bool) {
    if is_reset {
        let _ = stream.set_zero_linger();
    }
}

/// One direction. The end of what is read is passed on, and the other direction goes on.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let (mut buffer, mut carried) = (vec![0; 16 * 1024], 0);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let now = *mode.borrow_and_update();
            let most = match now {
                Mode::Blackhole => 0,
                Mode::StallAfter(bytes) => bytes.saturating_sub(carried),
                Mode::Split(bytes) => bytes,
                Mode::Slow(a_second) => (a_second / 20).max(1),
                _ => rest.len(),
            };
            if most == 0 {
                // What was sent waits, as it does in a network that is cut: when it heals, it arrives.
                if mode.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let (piece, later) = rest.split_at(most.min(rest.len()));
            match now {
                Mode::Latency(delay) => sleep(delay).await,
                Mode::Slow(_) => sleep(Duration::from_millis(50)).await,
                _ => {}
            }
            to.write_all(piece).await?;
            carried += piece.len();
            rest = later;
        }
    }
}
