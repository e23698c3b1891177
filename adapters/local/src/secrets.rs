use ai4free_ports::runtime::SecretSource;

/// The operating system's cryptographically secure generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsSecrets;

impl SecretSource for OsSecrets {
    /// Ends the process if the system has no randomness: a guessable secret is worse than none.
    #[expect(clippy::disallowed_methods, reason = "the adapter behind the SecretSource port")]
    fn fill(&self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            tracing::error!(%error, "the operating system gives no random bytes");
            std::process::abort();
        }
    }
}
