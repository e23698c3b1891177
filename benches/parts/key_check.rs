//! What a key costs before any look-up, and what tells it from an invented one after it.

use ai4free_local::{HmacKeyHasher, OsSecrets, Pepper};
use ai4free_ports::{key::ApiKey, runtime::KeyHasher};
use divan::Bencher;

fn hasher() -> HmacKeyHasher {
    HmacKeyHasher::new(&Pepper::derive(1, b"a benchmark has no secrets"), &[])
}

/// Form and checksum.
#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let key = ApiKey::generate(&OsSecrets);
    bencher.bench(|| ApiKey::parse(divan::black_box(key.reveal())).is_some());
}

/// Under which the cache has it.
#[divan::bench]
fn fingerprint(bencher: Bencher<'_, '_>) {
    let (hasher, key) = (hasher(), ApiKey::generate(&OsSecrets));
    bencher.bench(|| hasher.fingerprint(&key));
}

/// Form, checksum and HMAC: a key that the cache does not have.
#[divan::bench]
fn parse_and_match(bencher: Bencher<'_, '_>) {
    let (hasher, key) = (hasher(), ApiKey::generate(&OsSecrets));
    let stored = hasher.hash(&key);
    bencher.bench(|| ApiKey::parse(divan::black_box(key.reveal())).is_some_and(|key| hasher.matches(&key, &stored)));
}
