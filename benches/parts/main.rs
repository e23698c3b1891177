//! What the parts of the request path cost by themselves: `cargo bench -p ai4free-bench`.
//!
//! Pure code only, through the public faces of the crates. A part that is not here is measured by the whole (`src/rows`).

#![expect(clippy::unwrap_used, reason = "a part that can't be prepared can't be measured")]

mod admission;
mod key_check;
mod price;
mod request;
mod stream;

fn main() {
    divan::main();
}
