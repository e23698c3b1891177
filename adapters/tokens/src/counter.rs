use std::sync::Arc;

use ai4free_ports::{error::CountError, runtime::TokenCounter, usage::Encoding};
use async_trait::async_trait;
use bytes::Bytes;
use tiktoken_rs::{CoreBPE, cl100k_base, o200k_base};
use tokio::{sync::OnceCell, task::spawn_blocking};

use crate::pieces::pieces;

/// Texts up to this many bytes are counted in place, in about 0.1 ms; longer ones would hold up the reactor.
const IN_PLACE: usize = 4 * 1024;

type Table = OnceCell<Arc<CoreBPE>>;

/// Tokenizer tables, each loaded when it is first needed: 50 to 150 ms and some 40 MB.
///
/// A text beyond 64 KiB is counted in pieces, as the tokenizer takes quadratic time for one long run of a letter. Each cut can
/// split a token, so the count may be a few tokens too high (rarely too low) per 64 KiB.
#[derive(Default)]
pub struct TiktokenCounter {
    cl100k: Table,
    o200k: Table,
}

impl TiktokenCounter {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl TokenCounter for TiktokenCounter {
    async fn count(&self, encoding: Encoding, text: Bytes) -> Result<u64, CountError> {
        if text.is_empty() {
            return Ok(0);
        }
        let table = match encoding {
            Encoding::BytesPerFour => return Ok((text.len() as u64).div_ceil(4)),
            Encoding::Cl100k => loaded(&self.cl100k, cl100k_base).await?,
            Encoding::O200k => loaded(&self.o200k, o200k_base).await?,
        };
        if text.len() <= IN_PLACE {
            return Ok(count(table, &text));
        }
        let table = table.clone();
        spawn_blocking(move || count(&table, &text)).await.map_err(|panicked| CountError(panicked.into()))
    }
}

async fn loaded<E>(table: &Table, load: fn() -> Result<CoreBPE, E>) -> Result<&Arc<CoreBPE>, CountError>
where
    E: std::fmt::Display + 'static,
{
    let loading = || async move {
        let load = move || load().map(Arc::new).map_err(|error| CountError(error.to_string().into()));
        spawn_blocking(load).await.map_err(|panicked| CountError(panicked.into()))?
    };
    table.get_or_try_init(loading).await
}

/// Bytes that are not UTF-8 count as the replacement character. Special tokens count as the text that they are.
fn count(table: &CoreBPE, text: &[u8]) -> u64 {
    pieces(&String::from_utf8_lossy(text)).map(|piece| table.count_ordinary(piece) as u64).sum()
}

#[cfg(test)]
mod tests {
    use ai4free_contract::{token_counter::Harness, token_counter_contract};

    use super::*;

    struct Fresh;

    impl Harness for Fresh {
        fn counter() -> Arc<dyn TokenCounter> {
            Arc::new(TiktokenCounter::new())
        }
    }

    token_counter_contract!(Fresh);

    #[tokio::test]
    async fn a_table_that_is_not_needed_is_not_loaded() {
        let counter = TiktokenCounter::new();
        counter.count(Encoding::BytesPerFour, "hello".into()).await.unwrap();
        counter.count(Encoding::Cl100k, "".into()).await.unwrap();
        assert!(!counter.cl100k.initialized() && !counter.o200k.initialized());
        counter.count(Encoding::Cl100k, "hello".into()).await.unwrap();
        assert!(counter.cl100k.initialized() && !counter.o200k.initialized());
    }

    #[tokio::test]
    async fn in_place_and_away_from_the_reactor_count_alike() {
        let text = "Grüße, 世界! ".repeat(2000);
        let counter = TiktokenCounter::new();
        let counted = counter.count(Encoding::O200k, text.clone().into()).await.unwrap();
        let table = o200k_base().unwrap();
        assert_eq!(counted, table.encode_ordinary(&text).len() as u64);
    }
}
