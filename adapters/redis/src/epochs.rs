use std::{error::Error, fmt::Write, sync::Arc, time::Duration};

use ai4free_ports::{budget::Epoch, usage_ledger::UsageLedger};
use fred::clients::{Client, WithOptions};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    connection::Connections,
    keys::Keys,
    script::{Script, TimeSource},
    server_info::ServerInfo,
    unavailable::Unavailable,
};

/// The ledger's deadline. Requests don't wait that long.
const LEDGER_DEADLINE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Which epoch Redis is in: how often it has lost its data, as the ledger counts.
///
/// Money is held only by the script of the current epoch, which is loaded only onto a server for which the ledger has
/// attested that epoch. Redis neither replicates nor saves loaded scripts, so a server that was restarted, or promoted with
/// some of the data missing, does not know it. A server that stands but lost its data lacks the key that names its epoch.
pub(crate) struct Epochs {
    ledger: Arc<dyn UsageLedger>,
    time: TimeSource,
    known: watch::Sender<Known>,
}

/// The script of an epoch, on a server that has been given it.
pub(crate) struct EpochScript {
    pub(crate) epoch: Epoch,
    pub(crate) script: Script,
}

struct Known {
    attestation: Attestation,
    /// The last epoch that was attested here.
    last: Option<Epoch>,
    /// The epoch whose data is known to be gone: the last one, or a later one.
    lost: Option<Epoch>,
}

enum Attestation {
    /// The worker is at it.
    Asking,
    Attested(Arc<EpochScript>),
    /// The last try failed; the worker tries again.
    Closed(Arc<Unavailable>),
}

/// What a server says of itself.
struct Server {
    run_id: Box<str>,
    /// Of its data.
    epoch: Option<Epoch>,
}

impl Epochs {
    pub(crate) fn new(ledger: Arc<dyn UsageLedger>, time: TimeSource) -> Self {
        Self {
            ledger,
            time,
            known: watch::Sender::new(Known { attestation: Attestation::Asking, last: None, lost: None }),
        }
    }

    /// The current epoch. Waits while it is being asked for: only callers with a deadline may ask.
    pub(crate) async fn current(&self) -> Result<Arc<EpochScript>, Unavailable> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(|known| !matches!(known.attestation, Attestation::Asking)).await;
        match known.map(|known| known.attestation.outcome()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(Unavailable::Timeout),
        }
    }

    /// What was seen as current no longer works: it is asked for anew. `lost`: its data is gone.
    pub(crate) fn doubt(&self, seen: &Arc<EpochScript>, lost: Option<Epoch>) {
        self.known.send_if_modified(|known| {
            // Others saw the same, and it may have been asked for again by now.
            if lost >= known.last {
                known.lost = known.lost.max(lost);
            }
            let is_current = matches!(&known.attestation, Attestation::Attested(current) if Arc::ptr_eq(current, seen));
            if is_current {
                known.attestation = Attestation::Asking;
            }
            is_current
        });
    }

    /// Goes on to a later epoch than this one, if need be. Waits, as [`Epochs::current`] does.
    pub(crate) async fn leave(&self, epoch: Epoch) -> Result<(), Unavailable> {
        loop {
            let current = self.current().await?;
            if current.epoch > epoch {
                return Ok(());
            }
            self.doubt(&current, Some(epoch));
        }
    }

    /// The last epoch that was attested here. Requests may hold money of it, and of earlier ones.
    pub(crate) fn last(&self) -> Option<Epoch> {
        self.known.borrow().last
    }

    /// Why no money can be held now.
    pub(crate) fn closed_because(&self) -> Option<String> {
        match &self.known.borrow().attestation {
            Attestation::Asking | Attestation::Attested(_) => None,
            Attestation::Closed(reason) => Some(with_causes(&**reason)),
        }
    }

    /// Asks for the current epoch whenever it is not known. Never ends.
    pub(crate) async fn run(&self, connections: &Connections, keys: &Keys) {
        let mut known = self.known.subscribe();
        let (mut pause, mut logged) = (FIRST_PAUSE, None);
        connections.connected().await;
        loop {
            let Ok(lost) = known.wait_for(|known| !known.attestation.is_attested()).await.map(|known| known.lost)
            else {
                return;
            };
            match self.attest(connections, keys, lost).await {
                Ok(script) => {
                    tracing::info!(epoch = script.epoch.0, "budgets are open: the epoch of Redis is attested");
                    (pause, logged) = (FIRST_PAUSE, None);
                    self.known.send_modify(|known| {
                        known.last = Some(script.epoch);
                        // Unless this epoch was lost meanwhile.
                        if known.lost < known.last {
                            known.lost = None;
                            known.attestation = Attestation::Attested(Arc::new(script));
                        }
                    });
                }
                Err(reason) => {
                    let text = with_causes(&reason);
                    if logged.as_ref() != Some(&text) {
                        tracing::warn!(reason = %text, "budgets are closed, other limits go on");
                        logged = Some(text);
                    }
                    self.known.send_modify(|known| known.attestation = Attestation::Closed(Arc::new(reason)));
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// One server answers all of it: were it another one in the end, it might have been given the script of an epoch that it
    /// has not the data of, and is asked about again.
    async fn attest(
        &self,
        connections: &Connections,
        keys: &Keys,
        lost: Option<Epoch>,
    ) -> Result<EpochScript, Unavailable> {
        let client = connections.client()?;
        let server = ask(connections, client, keys, None).await?;
        let mut epoch = self.ask_ledger(&server.run_id, lost).await?;
        let first = match server.epoch {
            // Its data is lost, and nobody may know yet. Then the next epoch has to begin, unless it just has.
            None if lost.is_none_or(|lost| lost.0 + 1 != epoch.0) => Epoch(epoch.0 + 1),
            // The database was restored from a backup: epochs that it does not remember had other grants.
            Some(data) if data > epoch => Epoch(data.0 + 1),
            _ => epoch,
        };
        while epoch < first {
            epoch = self.ask_ledger(&server.run_id, Some(epoch)).await?;
        }
        let script = Script::new(self.time, Some(epoch));
        script.load(client).await.map_err(Unavailable::Refused)?;
        let begun = ask(connections, client, keys, Some((epoch, &server.run_id))).await?;
        if begun.run_id != server.run_id || begun.epoch != Some(epoch) {
            return Err(Unavailable::OtherServer);
        }
        Ok(EpochScript { epoch, script })
    }

    async fn ask_ledger(&self, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, Unavailable> {
        let asked = timeout(LEDGER_DEADLINE, self.ledger.attest(run_id, lost)).await;
        let epoch = asked.map_err(|_| Unavailable::Timeout)?.map_err(Unavailable::Unattested)?;
        if Some(epoch) > lost { Ok(epoch) } else { Err(Unavailable::EpochOver) }
    }
}

impl Attestation {
    fn is_attested(&self) -> bool {
        matches!(self, Self::Attested(_))
    }

    /// `None`: not yet.
    fn outcome(&self) -> Option<Result<Arc<EpochScript>, Unavailable>> {
        match self {
            Self::Asking => None,
            Self::Attested(script) => Some(Ok(Arc::clone(script))),
            Self::Closed(reason) => Some(Err(Unavailable::Closed(Arc::clone(reason)))),
        }
    }
}

/// What an operator has to mend is often the last cause.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string can't fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Asks a server about itself, after the beginning of an epoch if it is still the server of this `run_id`.
async fn ask(
    connections: &Connections,
    client: &WithOptions<Client>,
    keys: &Keys,
    begins: Option<(Epoch, &str)>,
) -> Result<Server, Unavailable> {
    let arguments = || {
        let mut arguments = keys.arguments("E");
        if let Some((epoch, run_id)) = begins {
            arguments.values.extend([epoch.0.into(), run_id.into()]);
        }
        arguments
    };
    let (_, epoch, info): (i64, i64, String) = connections.call_on(client, arguments).await?;
    let info = ServerInfo(&info);
    if let Some(reason) = info.unfit_for_money() {
        return Err(Unavailable::Unfit(reason));
    }
    let run_id = info.run_id().ok_or(Unavailable::Reply)?.into();
    Ok(Server { run_id, epoch: (epoch >= 0).then_some(Epoch(epoch)) })
}
