//! What is wrong with a provider's settings.

/// Names the setting and what is wrong with it, never its value: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    pub field: &'static str,
    pub reason: &'static str,
}

impl BuildError {
    pub(crate) fn new(field: &'static str, reason: &'static str) -> Self {
        Self { field, reason }
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.field, self.reason)
    }
}

impl std::error::Error for BuildError {}
