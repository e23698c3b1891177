//! The spools of this process: the one that it writes to, and those that it has taken over from dead ones.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ai4free_ports::{
    runtime::{Clock, IdSource},
    usage_ledger::SpoolId,
};

use super::{
    ballast::Ballast,
    directory::{self, Locked},
    journal::SpoolOptions,
    log::Log,
    recovery::{self, Recovered},
    segment::Volume,
    spool::Spool,
    state::State,
    tail::Tail,
    unsynced::{Durability, Unsynced},
    write_times::{WriteCounts, WriteTimes},
};

/// Another process may adopt a directory in the moment between its making and its locking.
const TRIES_TO_CREATE: usize = 8;

pub(crate) struct Spools {
    parent: PathBuf,
    common: Common,
    own: Arc<Spool>,
    adopted: Mutex<Vec<Arc<Spool>>>,
}

/// What all of them have in common.
struct Common {
    volume: Arc<dyn Volume>,
    options: SpoolOptions,
    clock: Arc<dyn Clock>,
    /// Bytes in all their segments.
    used: Arc<AtomicU64>,
    writes: Arc<WriteCounts>,
}

impl Spools {
    /// Takes over every spool whose process is gone. The oldest, or a new one, becomes our own. Blocks on the disk.
    pub(super) fn open(
        volume: Arc<dyn Volume>,
        parent: &Path,
        options: SpoolOptions,
        clock: Arc<dyn Clock>,
        ids: &dyn IdSource,
    ) -> io::Result<Self> {
        let mut directories = directory::lock_all(parent)?.into_iter();
        let directory = match directories.next() {
            Some(oldest) => oldest,
            None => create(parent, ids)?,
        };
        if options.durability == Durability::PowerSafe {
            volume.sync_directory(parent)?;
        }
        let common = Common { volume, options, clock, used: Arc::default(), writes: Arc::default() };
        let own = Arc::new(take_over(&common, directory, false)?);
        let spools = Self { parent: parent.to_owned(), common, own, adopted: Mutex::default() };
        spools.take_over_all(directories);
        Ok(spools)
    }

    /// Takes over the spools of processes that have died since. Blocks on the disk.
    pub(crate) fn adopt(&self) -> io::Result<()> {
        self.take_over_all(directory::lock_all(&self.parent)?.into_iter());
        Ok(())
    }

    /// Our own is the first.
    pub(crate) fn all(&self) -> Vec<Arc<Spool>> {
        std::iter::once(&self.own).chain(&*self.adopted()).cloned().collect()
    }

    pub(crate) fn own(&self) -> &Arc<Spool> {
        &self.own
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.common.clock
    }

    pub(crate) fn options(&self) -> &SpoolOptions {
        &self.common.options
    }

    pub(super) fn bytes(&self) -> u64 {
        self.common.used.load(Ordering::Relaxed)
    }

    pub(super) fn write_times(&self) -> WriteTimes {
        self.common.writes.now()
    }

    /// Nothing is left of it.
    pub(crate) fn forget(&self, gone: &Spool) {
        self.adopted().retain(|spool| spool.id() != gone.id());
    }

    fn take_over_all(&self, directories: impl Iterator<Item = Locked>) {
        for directory in directories {
            let path = directory.path.clone();
            match take_over(&self.common, directory, true) {
                Ok(spool) => {
                    tracing::info!(spool = %spool.id().0, "took over the usage journal of a process that is gone");
                    self.adopted().push(Arc::new(spool));
                }
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "can't take over the usage journal of another process");
                }
            }
        }
    }

    fn adopted(&self) -> MutexGuard<'_, Vec<Arc<Spool>>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(parent: &Path, ids: &dyn IdSource) -> io::Result<Locked> {
    for _ in 0..TRIES_TO_CREATE {
        match directory::create(parent, SpoolId(ids.request_id().0)) {
            Ok(Some(fresh)) => return Ok(fresh),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // adopted, and found to be empty
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("another process takes every new journal"))
}

/// Recovers a spool and closes what was open in it.
fn take_over(common: &Common, directory: Locked, is_adopted: bool) -> io::Result<Spool> {
    let Common { volume, options, clock, used, writes } = common;
    let Locked { spool, path, lock } = directory;
    let Recovered { segments, last_number, open, next, unconfirmed_from } = recovery::recover(&path, spool)?;
    used.fetch_add(segments.iter().map(|segment| segment.length).sum(), Ordering::Relaxed);
    let mut ballast = Ballast::in_directory(&path, options.ballast_bytes);
    if !is_adopted && let Err(error) = ballast.write() {
        tracing::warn!(%error, "no room for the usage journal's ballast");
    }
    let log = Log {
        directory: path,
        spool,
        volume: volume.clone(),
        clock: clock.clone(),
        segment_bytes: options.segment_bytes,
        segments: segments.into(),
        writer: None,
        last_number,
        next,
        unconfirmed: true,
        used: used.clone(),
        writes: writes.clone(),
        durability: options.durability,
        written: 0,
        synced: 0,
        unsynced: Unsynced::default(),
        is_dirty: false,
    };
    let acknowledged = log.first();
    let undrained_since = (log.next > acknowledged).then(|| clock.monotonic());
    let mut state = State {
        log,
        open: HashMap::new(),
        unwritten: Vec::new(),
        tail: Tail::default(),
        acknowledged,
        undrained_since,
        unconfirmed_from: Some(unconfirmed_from.unwrap_or(next).min(next)),
        fenced: false,
        capacity: options.capacity,
        ballast,
        refused_closes: 0,
        is_in_trouble: false,
        copied: 0,
    };
    state.close_lost(open);
    Ok(Spool::new(state, is_adopted, lock))
}
