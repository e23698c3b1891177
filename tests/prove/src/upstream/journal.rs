//! What the upstream saw and did, by proof id.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Instant,
};

/// One request that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) arrived: Instant,
    /// Pieces written to the socket, each with its moment.
    pub(crate) chunks: Vec<Instant>,
    /// The whole answer was written.
    pub(crate) completed: Option<Instant>,
    /// The gateway closed its connection before that.
    pub(crate) cancelled: Option<Instant>,
    /// The end that the upstream was told to make, or of the connection.
    pub(crate) ended: Option<Instant>,
}

/// Shared by all connections of the upstream.
#[derive(Clone, Default)]
pub(crate) struct UpstreamJournal {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    served: HashMap<u64, Served>,
    /// Proof ids that came more than once, with how often.
    repeated: BTreeMap<u64, u32>,
    open: usize,
    most_open: usize,
}

impl UpstreamJournal {
    pub(super) fn arrived(&self, proof: u64) {
        let served =
            Served { arrived: Instant::now(), chunks: Vec::new(), completed: None, cancelled: None, ended: None };
        let mut entries = self.entries.lock().unwrap();
        if entries.served.insert(proof, served).is_some() {
            *entries.repeated.entry(proof).or_insert(1) += 1;
        }
        entries.open += 1;
        entries.most_open = entries.most_open.max(entries.open);
    }

    pub(super) fn wrote_chunk(&self, proof: u64) {
        self.change(proof, |served| served.chunks.push(Instant::now()));
    }

    /// The last bytes are about to be written: from then on the gateway may take the request as ended.
    pub(super) fn completing(&self, proof: u64) {
        self.change(proof, |served| served.completed = Some(Instant::now()));
        self.end(proof);
    }

    pub(super) fn cancelled(&self, proof: u64) {
        self.change(proof, |served| {
            if served.completed.is_none() {
                served.cancelled = Some(Instant::now());
            }
        });
        self.end(proof);
    }

    /// It is over by the script.
    pub(super) fn ended(&self, proof: u64) {
        self.end(proof);
    }

    fn end(&self, proof: u64) {
        let mut entries = self.entries.lock().unwrap();
        let served = entries.served.get_mut(&proof).unwrap();
        if served.ended.is_none() {
            served.ended = Some(Instant::now());
            entries.open -= 1;
        }
    }

    fn change(&self, proof: u64, change: impl FnOnce(&mut Served)) {
        change(self.entries.lock().unwrap().served.get_mut(&proof).unwrap());
    }

    pub(crate) fn of(&self, proof: u64) -> Option<Served> {
        self.entries.lock().unwrap().served.get(&proof).cloned()
    }

    pub(crate) fn all(&self) -> HashMap<u64, Served> {
        self.entries.lock().unwrap().served.clone()
    }

    pub(crate) fn repeated(&self) -> BTreeMap<u64, u32> {
        self.entries.lock().unwrap().repeated.clone()
    }

    /// Requests being answered now.
    pub(crate) fn open(&self) -> usize {
        self.entries.lock().unwrap().open
    }

    /// The most at once since the start.
    pub(crate) fn most_open(&self) -> usize {
        self.entries.lock().unwrap().most_open
    }
}
