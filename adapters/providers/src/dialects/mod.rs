//! Wire protocols: one folder each, and the table of their names. No dialect knows another.
//!
//! To add one: a folder here, a row in [`DIALECTS`], and the contract `ai4free_contract::dialect` in its tests.

pub mod openai;
mod sse;

use std::sync::Arc;

use ai4free_ports::dialect::Dialect;

/// Every dialect by the name that a provider's settings use. A function gives the same object each time: that two sides
/// speak one protocol is seen by their holding the same one.
pub const DIALECTS: &[Row] = &[(openai::NAME, openai::dialect)];

/// Name, and how to get it.
pub type Row = (&'static str, fn() -> Arc<dyn Dialect>);

/// `None`: there is no such dialect.
#[must_use]
pub fn by_name(name: &str) -> Option<Arc<dyn Dialect>> {
    DIALECTS.iter().find(|(known, _)| *known == name).map(|(_, dialect)| dialect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_same_object_each_time() {
        for (name, _) in DIALECTS {
            let (first, second) = (by_name(name).unwrap(), by_name(name).unwrap());
            assert!(Arc::ptr_eq(&first, &second));
            assert_eq!(first.name(), *name);
        }
        assert!(by_name("unknown").is_none());
    }
}
