use ai4free_ports::{
    key::{ApiKey, StoredSecret},
    runtime::KeyHasher,
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

type HmacSha256 = Hmac<Sha256>;

/// Block length of SHA-256 in bytes: the natural length of an HMAC key.
const BLOCK: usize = 64;

/// A secret that is mixed into every stored hash and is not in the database. Wiped when dropped, never shown.
pub struct Pepper {
    version: u16,
    key: Zeroizing<[u8; 32]>,
}

impl Pepper {
    #[must_use]
    pub fn new(version: u16, key: Zeroizing<[u8; 32]>) -> Self {
        Self { version, key }
    }

    /// The pepper of an installation that was given only its system secret.
    #[expect(clippy::expect_used, reason = "HKDF-SHA256 can give up to 255 × 32 bytes, 32 are asked")]
    #[must_use]
    pub fn derive(version: u16, system_secret: &[u8]) -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        Hkdf::<Sha256>::new(None, system_secret)
            .expand(b"ai4free key pepper v1", key.as_mut_slice())
            .expect("32 bytes are a valid length");
        Self { version, key }
    }

    /// HMAC that has the pepper already mixed in.
    fn hmac(&self) -> HmacSha256 {
        let mut block = Zeroizing::new([0_u8; BLOCK]); // HMAC pads a shorter key with zeros, so this is the same key
        if let Some(head) = block.first_chunk_mut() {
            *head = *self.key;
        }
        <HmacSha256 as hmac::KeyInit>::new(&(*block).into())
    }
}

/// HMAC-SHA-256 of a key's secret under versioned peppers.
pub struct HmacKeyHasher {
    newest: (u16, HmacSha256),
    older: Vec<(u16, HmacSha256)>,
}

impl HmacKeyHasher {
    /// New hashes are made with `newest`; those that were made with an older one still match.
    #[must_use]
    pub fn new(newest: &Pepper, older: &[Pepper]) -> Self {
        let keyed = |pepper: &Pepper| (pepper.version, pepper.hmac());
        Self { newest: keyed(newest), older: older.iter().map(keyed).collect() }
    }

    fn all(&self) -> impl Iterator<Item = &(u16, HmacSha256)> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

impl KeyHasher for HmacKeyHasher {
    fn hash(&self, key: &ApiKey) -> StoredSecret {
        let (pepper_version, hmac) = &self.newest;
        StoredSecret { hmac: digest(hmac, &[key.secret()]), pepper_version: *pepper_version, expires_at: None }
    }

    fn matches(&self, key: &ApiKey, stored: &StoredSecret) -> bool {
        self.all().find(|(version, _)| *version == stored.pepper_version).is_some_and(|(_, hmac)| {
            let hash = Zeroizing::new(digest(hmac, &[key.secret()]));
            bool::from(hash.as_slice().ct_eq(stored.hmac.as_slice()))
        })
    }

    /// Covers the id as well: the secret of one key under the id of another must not find the other's cache entry.
    fn fingerprint(&self, key: &ApiKey) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(digest(&self.newest.1, &["fingerprint", key.id().as_str(), key.secret()]))
    }

    fn peppers(&self) -> Vec<(u16, [u8; 32])> {
        self.all().map(|(version, hmac)| (*version, digest(hmac, &["ai4free pepper fingerprint"]))).collect()
    }
}

fn digest(keyed: &HmacSha256, parts: &[&str]) -> [u8; 32] {
    let mut hmac = keyed.clone();
    for part in parts {
        hmac.update(part.as_bytes());
    }
    hmac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsSecrets;

    fn pepper(version: u16, byte: u8) -> Pepper {
        Pepper::new(version, Zeroizing::new([byte; 32]))
    }

    #[test]
    fn the_hash_is_hmac_sha_256_as_others_compute_it() {
        // RFC 4231, test case 1, has a key of 20 bytes: the padding of a shorter key must not change the digest.
        let mut key = [0_u8; 32];
        key[..20].fill(0x0b);
        let tag = digest(&Pepper::new(1, Zeroizing::new(key)).hmac(), &["Hi ", "There"]);
        assert_eq!(hex(&tag), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn a_key_matches_its_own_hash_and_no_other_key_does() {
        let hasher = HmacKeyHasher::new(&pepper(1, 1), &[]);
        let (key, other) = (ApiKey::generate(&OsSecrets), ApiKey::generate(&OsSecrets));
        let stored = hasher.hash(&key);
        assert!(hasher.matches(&key, &stored));
        assert!(!hasher.matches(&other, &stored));
        let rotated = ApiKey::rotate(&key.id(), &OsSecrets);
        assert!(!hasher.matches(&rotated, &stored));
        assert_ne!(hasher.fingerprint(&rotated), hasher.fingerprint(&key));
        assert_ne!(hasher.fingerprint(&key).as_slice(), stored.hmac);
    }

    #[test]
    fn an_old_pepper_still_matches_and_an_unknown_version_never_does() {
        let key = ApiKey::generate(&OsSecrets);
        let before = HmacKeyHasher::new(&pepper(1, 1), &[]).hash(&key);
        let after = HmacKeyHasher::new(&pepper(2, 2), &[pepper(1, 1)]);
        assert!(after.matches(&key, &before));
        assert_eq!(after.hash(&key).pepper_version, 2);
        assert!(!HmacKeyHasher::new(&pepper(2, 1), &[]).matches(&key, &before));
        assert!(!after.matches(&key, &StoredSecret { pepper_version: 2, ..before }));
    }

    #[test]
    fn the_fingerprints_of_peppers_tell_them_apart() {
        let hasher = HmacKeyHasher::new(&pepper(2, 2), &[pepper(1, 1)]);
        let peppers = hasher.peppers();
        assert_eq!(peppers.iter().map(|(version, _)| *version).collect::<Vec<_>>(), [2, 1]);
        assert_ne!(peppers[0].1, peppers[1].1);
    }

    #[test]
    fn a_derived_pepper_follows_from_the_system_secret_alone() {
        let derived = |secret: &[u8]| HmacKeyHasher::new(&Pepper::derive(1, secret), &[]).peppers();
        assert_eq!(derived(b"0123456789abcdef0123456789abcdef"), derived(b"0123456789abcdef0123456789abcdef"));
        assert_ne!(derived(b"0123456789abcdef0123456789abcdef"), derived(b"0123456789abcdef0123456789abcdeg"));
        // HKDF-SHA256 by hand: PRK = HMAC(zeros, secret), OKM = HMAC(PRK, info ‖ 1).
        let zeros = Pepper::new(1, Zeroizing::new([0; 32]));
        let prk = digest(&zeros.hmac(), &["0123456789abcdef0123456789abcdef"]);
        let okm = digest(&Pepper::new(1, Zeroizing::new(prk)).hmac(), &["ai4free key pepper v1", "\u{1}"]);
        assert_eq!(*Pepper::derive(1, b"0123456789abcdef0123456789abcdef").key, okm);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
