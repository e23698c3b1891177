//! The runtime's contract, kept by the parts of this crate.

use std::sync::Arc;

use ai4free_contract::{
    runtime::{Harness, Replace},
    runtime_contract,
};
use ai4free_ports::{
    catalogue::{Catalogue, Snapshot},
    runtime::{Clock, IdSource, KeyHasher, SecretSource, TaskSpawner},
};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use crate::{HmacKeyHasher, OsSecrets, Pepper, SwappableCatalogue, SystemClock, TokioSpawner, UuidV7Ids};

struct Process;

impl Harness for Process {
    fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock::new())
    }

    fn ids() -> Arc<dyn IdSource> {
        Arc::new(UuidV7Ids::new(Self::clock(), Self::secrets()))
    }

    fn secrets() -> Arc<dyn SecretSource> {
        Arc::new(OsSecrets)
    }

    fn hasher(newest: u8) -> Arc<dyn KeyHasher> {
        Arc::new(HmacKeyHasher::new(&pepper(2, newest), &[pepper(1, 1)]))
    }

    fn hasher_before() -> Arc<dyn KeyHasher> {
        Arc::new(HmacKeyHasher::new(&pepper(1, 1), &[]))
    }

    fn spawner() -> Arc<dyn TaskSpawner> {
        Arc::new(TokioSpawner::new(Handle::current()))
    }

    fn catalogue(first: Snapshot) -> (Arc<dyn Catalogue>, Replace) {
        let catalogue = Arc::new(SwappableCatalogue::new(first));
        (catalogue.clone(), Box::new(move |next| catalogue.replace(next)))
    }
}

fn pepper(version: u16, byte: u8) -> Pepper {
    Pepper::new(version, Zeroizing::new([byte; 32]))
}

runtime_contract!(Process);
