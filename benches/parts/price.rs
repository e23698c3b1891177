//! What a request may cost, and what it did.

use ai4free_ports::{
    catalogue::{Price, Tier},
    usage::TokenUsage,
};
use divan::Bencher;

fn price() -> Price {
    let tier = |above| Tier { above, input: 300_000, output: 1_200_000, ..Tier::default() };
    Price {
        version: 1,
        input: 150_000,
        output: 600_000,
        cache_read: Some(75_000),
        tiers: vec![tier(128_000), tier(256_000)],
        ..Price::default()
    }
}

#[divan::bench]
fn cost(bencher: Bencher<'_, '_>) {
    let (price, usage) = (price(), TokenUsage { input: 40, cache_read: 2, output: 128, ..TokenUsage::default() });
    bencher.bench(|| divan::black_box(&price).cost(divan::black_box(&usage)));
}

#[divan::bench]
fn upper_bound(bencher: Bencher<'_, '_>) {
    let price = price();
    bencher.bench(|| divan::black_box(&price).upper_bound(divan::black_box(600), 256, 0));
}
