//! A network in which connections can fall silent, or lead elsewhere.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards to a server for as long as it lives.
pub(crate) struct Proxy {
    address: SocketAddr,
    silences: watch::Sender<u32>,
    /// Connections through which anything passes.
    passing: watch::Sender<usize>,
    target: watch::Sender<u16>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silences, silenced) = watch::channel(0);
        let (target, targets) = watch::channel(port);
        let passing = watch::Sender::new(0);
        let passes = passing.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut silenced = silenced.clone();
                silenced.mark_unchanged();
                passes.send_modify(|count| *count += 1);
                connections.spawn(forward(client, targets.clone(), silenced, passes.clone()));
            }
        });
        Self { address, silences, passing, target, _tasks: tasks }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on nothing passes through the connections that there are, and nobody is told. New ones work.
    pub(crate) async fn silence(&self) {
        self.silences.send_modify(|count| *count += 1);
        self.passing.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }

    /// Cuts the connections that there are; new ones end at another server.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.send_replace(port);
    }
}

async fn forward(
    mut client: TcpStream,
    mut targets: watch::Receiver<u16>,
    mut silenced: watch::Receiver<u32>,
    passing: watch::Sender<usize>,
) {
    let port = *targets.borrow_and_update();
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let is_silenced = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => false,
        _ = targets.changed() => false,
        _ = silenced.changed() => true,
    };
    passing.send_modify(|count| *count -= 1);
    if is_silenced {
        std::future::pending::<()>().await;
    }
}
