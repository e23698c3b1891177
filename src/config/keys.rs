//! `[keys]`: secrets as they were given.

use ai4free_ports::provider_settings::Secret;

use super::section::Section;

/// In bytes.
const SHORTEST_SECRET: usize = 32;
/// What people leave in place of a secret, without separators.
const PLACEHOLDERS: [&str; 12] = [
    "changeme",
    "changethis",
    "replaceme",
    "replacewith",
    "placeholder",
    "yoursecret",
    "yoursystemsecret",
    "yoursupersecret",
    "supersecret",
    "averysecretkey",
    "insertyour",
    "123456789",
];

/// No `Debug`: secrets.
#[derive(Clone)]
pub struct Keys {
    pub system_secret: Option<Secret>,
    pub pepper: Option<Secret>,
    /// The oldest first: versions 1, 2, …
    pub previous_peppers: Vec<Secret>,
}

pub(super) fn read(section: Section<'_>, is_sqlite: bool) -> Keys {
    let keys = Keys {
        system_secret: section.secret("system_secret"),
        pepper: section.secret("pepper"),
        previous_peppers: section.secrets("previous_peppers"),
    };
    let given = [("system_secret", &keys.system_secret), ("pepper", &keys.pepper)];
    let previous = keys.previous_peppers.iter().map(|secret| ("previous_peppers", secret));
    for (key, secret) in given.into_iter().filter_map(|(key, secret)| Some((key, secret.as_ref()?))).chain(previous) {
        if let Err(message) = check_secret(secret.expose()) {
            section.wrong(key, message);
        }
    }
    if keys.system_secret.is_none() && !is_sqlite {
        section.wrong("system_secret", "must be set with Postgres, the same for every replica (SYSTEM_SECRET); `openssl rand -base64 48` makes one");
    }
    if keys.pepper.is_none() && !keys.previous_peppers.is_empty() {
        section.wrong("previous_peppers", "needs `pepper` as well");
    }
    section.finish();
    keys
}

/// No entropy meter: only what is certainly wrong is refused.
pub(super) fn check_secret(secret: &str) -> Result<(), &'static str> {
    if secret.len() < SHORTEST_SECRET {
        return Err("is shorter than 32 bytes; `openssl rand -base64 48` makes a good one");
    }
    if secret.bytes().all(|byte| Some(byte) == secret.bytes().next()) {
        return Err("is one character repeated; `openssl rand -base64 48` makes a good one");
    }
    let plain: String = secret.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    if PLACEHOLDERS.iter().any(|placeholder| plain.contains(placeholder)) {
        return Err("is a placeholder; `openssl rand -base64 48` makes a good one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_that_nobody_has_made_up_is_accepted() {
        assert!(check_secret("short").is_err());
        assert!(check_secret(&"x".repeat(64)).is_err());
        assert!(check_secret("your-system-secret-your-system-secret").is_err());
        assert!(check_secret("please CHANGE_ME before you go to production").is_err());
        assert!(check_secret("zL0b9cq2vH8sT1xW7nR4kP6mY3dF5gJ0").is_ok());
    }
}
