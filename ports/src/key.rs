//! API keys: their text form, and what is stored of them.
//!
//! `sk-a4f-` ‖ id (12) ‖ secret (43) ‖ check (6): 68 characters, after the prefix all of `0-9A-Za-z`. The check is
//! CRC-32/ISO-HDLC of the 62 characters before it in base 62, so that a mistyped or invented key costs no look-up.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use zeroize::Zeroizing;

use crate::{
    limits::Limits,
    runtime::{SecretSource, Timestamp},
};

const PREFIX: &str = "sk-a4f-";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 43;
const CHECK_LENGTH: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Public identity of a key: 12 characters of `0-9A-Za-z`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// `None` unless it has the form of an id; it need not exist.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == ID_LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| Self(text.into()))
    }

    /// The owner of the gateway's own requests (`/v1/uptime`): never the id of a real key.
    #[must_use]
    pub fn system() -> Self {
        Self("system".into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key as a client presents it or as it is shown once to its owner. Wiped when dropped; has no `Debug` and no `Clone`.
pub struct ApiKey {
    text: Zeroizing<String>,
}

impl ApiKey {
    /// Checks form and checksum, without any look-up.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        if body.len() != ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (checked, check) = text.split_at(text.len() - CHECK_LENGTH);
        (base62(crc32(checked.as_bytes())).as_slice() == check.as_bytes())
            .then(|| Self { text: Zeroizing::new(text.to_owned()) })
    }

    /// A new key with a new id.
    #[must_use]
    pub fn generate(random: &dyn SecretSource) -> Self {
        let id = random_base62(random, ID_LENGTH);
        Self::with_id(&id, random)
    }

    /// A new secret for an existing key: rotation.
    #[must_use]
    pub fn rotate(id: &KeyId, random: &dyn SecretSource) -> Self {
        Self::with_id(id.as_str(), random)
    }

    fn with_id(id: &str, random: &dyn SecretSource) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH));
        text.push_str(PREFIX);
        text.push_str(id);
        text.push_str(&random_base62(random, SECRET_LENGTH));
        let check = base62(crc32(text.as_bytes()));
        text.extend(check.iter().map(|b| char::from(*b)));
        Self { text }
    }

    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(self.part(0, ID_LENGTH).into())
    }

    /// The 43 characters that are hashed and never stored.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.part(ID_LENGTH, SECRET_LENGTH)
    }

    /// The whole key. For the one reply that shows it to its owner.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What may be displayed for ever: `sk-a4f-` and the first four characters of the id.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{PREFIX}{}", self.part(0, 4))
    }

    /// The last four characters, for display. They belong to the checksum, so they tell nothing of the secret alone.
    #[must_use]
    pub fn last4(&self) -> String {
        self.text.get(self.text.len().saturating_sub(4)..).unwrap_or_default().to_owned()
    }

    fn part(&self, start: usize, length: usize) -> &str {
        let start = PREFIX.len() + start;
        self.text.get(start..start + length).unwrap_or_default()
    }
}

/// HMAC-SHA-256 of a key's secret under the pepper of one version.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub hmac: [u8; 32],
    pub pepper_version: u16,
    /// When a rotated secret stops working; `None` for the current one.
    pub expires_at: Option<Timestamp>,
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSecret").field("pepper_version", &self.pepper_version).finish_non_exhaustive()
    }
}

/// Everything that is stored of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    pub id: KeyId,
    pub name: Box<str>,
    /// The owner, as the operator names them. Limits of scope `user` apply to it.
    pub user_id: Option<Arc<str>>,
    /// Name of a configured plan.
    pub plan: Box<str>,
    /// The key's own limits; those that are not set come from the plan.
    pub limits: Limits,
    /// Model ids and `prefix/*` patterns; empty allows every model.
    pub models: Vec<Box<str>>,
    /// Cap on the output of one request, in tokens.
    pub max_output_tokens: Option<u64>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub prefix: Box<str>,
    pub last4: Box<str>,
    /// One, or two while a rotation's grace lasts.
    pub secrets: Vec<StoredSecret>,
    /// Grows with every change; a writer that read an older version is refused.
    pub version: i64,
}

impl StoredKey {
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }

    /// Whether the allow-list lets this key use a model.
    #[must_use]
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty()
            || self.models.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => model == &**allowed,
            })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Revoked,
    Expired,
}

impl KeyState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// Uniform characters of the alphabet: bytes at or above 4 × 62 are drawn again, so none is more likely than another.
fn random_base62(random: &dyn SecretSource, length: usize) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(length));
    let mut bytes = Zeroizing::new([0_u8; 64]);
    while text.len() < length {
        random.fill(bytes.as_mut_slice());
        let drawn = bytes.iter().filter(|b| **b < 248).filter_map(|b| ALPHABET.get(usize::from(*b) % 62));
        for character in drawn.take(length - text.len()) {
            text.push(char::from(*character));
        }
    }
    text
}

/// Base 62, left-padded with `0` to the six characters that 32 bits need.
fn base62(mut number: u32) -> [u8; CHECK_LENGTH] {
    let mut digits = [b'0'; CHECK_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET.get((number % 62) as usize).copied().unwrap_or(b'0');
        number /= 62;
    }
    digits
}

/// CRC-32/ISO-HDLC, a byte at a time: every request brings a key.
fn crc32(bytes: &[u8]) -> u32 {
    static STEPS: LazyLock<[u32; 256]> = LazyLock::new(|| {
        std::array::from_fn(|byte| {
            let byte = u32::try_from(byte).unwrap_or(0);
            (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
        })
    });
    let steps = &*STEPS;
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let step = steps.get(((crc ^ u32::from(*byte)) & 0xFF) as usize).copied().unwrap_or(0);
        (crc >> 8) ^ step
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicU8);
    impl SecretSource for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn crc32_is_iso_hdlc() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926); // check value of the CRC catalogue
    }

    #[test]
    fn a_generated_key_parses_and_every_changed_character_is_refused() {
        let key = ApiKey::generate(&Counting(0.into()));
        assert_eq!(key.reveal().len(), 68);
        assert_eq!(ApiKey::parse(key.reveal()).unwrap().id(), key.id());
        assert_eq!(key.secret().len(), 43);
        for at in 0..68 {
            let mut changed = key.reveal().to_owned().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            assert!(ApiKey::parse(std::str::from_utf8(&changed).unwrap()).is_none(), "character {at}");
        }
    }

    #[test]
    fn a_rotated_key_keeps_its_id_and_not_its_secret() {
        let random = Counting(0.into());
        let first = ApiKey::generate(&random);
        let second = ApiKey::rotate(&first.id(), &random);
        assert_eq!(first.id(), second.id());
        assert_ne!(first.secret(), second.secret());
    }

    #[test]
    fn hostile_texts_are_refused() {
        for text in ["", "sk-a4f-", "sk-proj-0123456789", &"ä".repeat(34), &format!("sk-a4f-{}", "é".repeat(30))] {
            assert!(ApiKey::parse(text).is_none(), "{text}");
        }
    }
}
