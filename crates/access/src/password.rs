//! Password hashes: RabbitMQ's, and one that is slow to guess.

use std::fmt;
use std::sync::{Arc, OnceLock};

use argon2::{Argon2, Block};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

/// RabbitMQ's salts have so many bytes.
const SALT_BYTES: usize = 4;
/// Ours for argon2id.
const ARGON2_SALT_BYTES: usize = 16;
const ARGON2_HASH_BYTES: usize = 32;
/// Longer hashes are nobody's.
const HASH_BYTES_MAX: usize = 256;

/// How a password is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hashing {
    /// RabbitMQ's default.
    #[default]
    #[serde(rename = "rabbit_password_hashing_sha256")]
    Sha256,
    /// RabbitMQ's alternative.
    #[serde(rename = "rabbit_password_hashing_sha512")]
    Sha512,
    /// Of servers before 3.6; for import only.
    #[serde(rename = "rabbit_password_hashing_md5")]
    Md5,
    /// Leveret's own: 19 MiB and about 50 ms for each guess.
    #[serde(rename = "leveret_password_hashing_argon2id")]
    Argon2id,
}

impl Hashing {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Sha256, "rabbit_password_hashing_sha256"),
        (Self::Sha512, "rabbit_password_hashing_sha512"),
        (Self::Md5, "rabbit_password_hashing_md5"),
        (Self::Argon2id, "leveret_password_hashing_argon2id"),
    ];

    /// The name definitions files have for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(hashing, _)| *hashing == self);
        known.map_or("", |(_, name)| name)
    }

    /// The algorithm of a name in a definitions file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(hashing, _)| *hashing)
    }

    /// Whether checking a password takes so long that it must not be done on a worker.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::Argon2id)
    }

    const fn salt_bytes(self) -> usize {
        match self {
            Self::Argon2id => ARGON2_SALT_BYTES,
            _ => SALT_BYTES,
        }
    }

    fn hash(self, salt: &[u8], password: &[u8], scratch: &mut Scratch) -> Vec<u8> {
        match self {
            Self::Sha256 => digest::<Sha256>(salt, password),
            Self::Sha512 => digest::<Sha512>(salt, password),
            Self::Md5 => digest::<Md5>(salt, password),
            Self::Argon2id => {
                let mut hash = vec![0; ARGON2_HASH_BYTES];
                let (argon2, blocks) = (Argon2::default(), &mut scratch.blocks);
                blocks.resize(argon2.params().block_count(), Block::default());
                // Fails for salts and passwords of absurd length only; then nothing matches.
                match argon2.hash_password_into_with_memory(password, salt, &mut hash, blocks) {
                    Ok(()) => hash,
                    Err(_) => Vec::new(),
                }
            }
        }
    }
}

/// The memory in which a slow hash is computed, kept for the next one: each thread that took its
/// own would leave it to the allocator.
#[derive(Default)]
pub struct Scratch {
    blocks: Vec<Block>,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scratch({} blocks)", self.blocks.len())
    }
}

fn digest<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
    let hash = D::new().chain_update(salt).chain_update(password);
    hash.finalize().to_vec()
}

/// A salted password hash. Never shown in logs.
#[derive(Clone)]
pub struct PasswordHash {
    hashing: Hashing,
    /// Salt, then hash.
    bytes: Box<[u8]>,
    /// A cheap digest of the password that was right, so that a slow hash is computed once.
    verified: Arc<OnceLock<[u8; 32]>>,
}

impl PasswordHash {
    /// Hashes a password. `chance` gives the salt's bits. Slow for a slow algorithm.
    #[must_use]
    pub fn new(hashing: Hashing, password: &str, chance: [u8; 16], scratch: &mut Scratch) -> Self {
        let salt = chance.get(..hashing.salt_bytes()).unwrap_or(&chance);
        let mut bytes = salt.to_vec();
        bytes.extend(hashing.hash(salt, password.as_bytes(), scratch));
        Self::of(hashing, bytes)
    }

    /// One that no password has, and that takes as long to check as any other.
    #[must_use]
    pub fn decoy(hashing: Hashing) -> Self {
        let mut bytes = vec![0; hashing.salt_bytes()];
        // Shorter than a hash, so that none is equal.
        bytes.push(0);
        Self::of(hashing, bytes)
    }

    fn of(hashing: Hashing, bytes: Vec<u8>) -> Self {
        Self {
            hashing,
            bytes: bytes.into(),
            verified: Arc::default(),
        }
    }

    /// Reads a hash as definitions files have it.
    ///
    /// # Errors
    /// When it is not base64, or of impossible length.
    pub fn from_base64(hashing: Hashing, text: &str) -> Result<Self, crate::AdminError> {
        let invalid = || crate::AdminError::Invalid("not_base64".into());
        if text.len() > HASH_BYTES_MAX * 2 {
            return Err(invalid());
        }
        let bytes = STANDARD.decode(text.trim()).map_err(|_| invalid())?;
        if bytes.len() <= hashing.salt_bytes() || bytes.len() > HASH_BYTES_MAX {
            return Err(invalid());
        }
        Ok(Self::of(hashing, bytes))
    }

    /// The hash as definitions files have it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    /// The algorithm.
    #[must_use]
    pub const fn hashing(&self) -> Hashing {
        self.hashing
    }

    /// Whether checking `password` takes long: a slow algorithm, and not the password that was
    /// right before.
    #[must_use]
    pub fn is_slow_for(&self, password: &[u8], key: &[u8; 16]) -> bool {
        self.hashing.is_slow() && !self.was_verified(password, key)
    }

    /// Checks a password. `key` is a secret of this run, for the digest of the last good one.
    #[must_use]
    pub fn verify(&self, password: &[u8], key: &[u8; 16], scratch: &mut Scratch) -> bool {
        if password.is_empty() {
            return false;
        }
        if self.hashing.is_slow() && self.was_verified(password, key) {
            return true;
        }
        let Some((salt, expected)) = self.bytes.split_at_checked(self.hashing.salt_bytes()) else {
            return false;
        };
        let right = same_bytes(expected, &self.hashing.hash(salt, password, scratch));
        if right && self.hashing.is_slow() {
            let _ = self.verified.set(keyed(key, password));
        }
        right
    }

    fn was_verified(&self, password: &[u8], key: &[u8; 16]) -> bool {
        let known = self.verified.get();
        known.is_some_and(|known| same_bytes(known, &keyed(key, password)))
    }
}

impl PartialEq for PasswordHash {
    fn eq(&self, other: &Self) -> bool {
        self.hashing == other.hashing && self.bytes == other.bytes
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.hashing)
    }
}

fn keyed(key: &[u8; 16], password: &[u8]) -> [u8; 32] {
    let digest = Sha256::new().chain_update(key).chain_update(password);
    digest.finalize().into()
}

/// Compares without stopping at the first difference.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    #[test]
    fn hashes_of_rabbitmq_verify() {
        let scratch = &mut Scratch::default();
        for (text, password) in [
            ("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "test12"),
            ("9/1i+jKFRpbTRV1PtRnzFFYibT3cEpP92JeZ8YKGtflf4e/u", "guest"),
            ("+pHuxkR9fCyrrwXjOD4BP4XbzO3l8LJr8YkThMgJ0yVHFRE+", "guest"),
        ] {
            let hash = PasswordHash::from_base64(Hashing::Sha256, text).unwrap();
            assert!(hash.verify(password.as_bytes(), &KEY, scratch));
            assert!(!hash.verify(b"wrong", &KEY, scratch));
            assert!(!hash.verify(b"", &KEY, scratch));
            assert_eq!(hash.to_base64(), text);
        }
    }

    #[test]
    fn every_algorithm_verifies_what_it_hashed() {
        let scratch = &mut Scratch::default();
        for (hashing, name) in Hashing::ALL {
            let hash = PasswordHash::new(hashing, "s3cret", [9; 16], scratch);
            let again = PasswordHash::from_base64(hashing, &hash.to_base64()).unwrap();
            assert_eq!(hash, again);
            assert!(again.verify(b"s3cret", &KEY, scratch), "{name}");
            assert!(!again.verify(b"s3cre", &KEY, scratch), "{name}");
            assert_eq!(Hashing::from_name(name), Some(hashing));
            assert_eq!(hashing.name(), name);
            assert_eq!(serde_json::to_value(hashing).unwrap(), name);
            assert!(!format!("{hash:?}").contains(&hash.to_base64()));
        }
    }

    #[test]
    fn a_slow_hash_is_computed_once() {
        let scratch = &mut Scratch::default();
        let hash = PasswordHash::new(Hashing::Argon2id, "s3cret", [1; 16], scratch);
        assert!(hash.is_slow_for(b"s3cret", &KEY));
        assert!(hash.verify(b"s3cret", &KEY, scratch));
        assert!(!hash.is_slow_for(b"s3cret", &KEY));
        assert!(hash.verify(b"s3cret", &KEY, scratch));
        assert!(hash.is_slow_for(b"other", &KEY));
        assert!(!hash.verify(b"other", &KEY, scratch));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "????", "AAAA", &"A".repeat(1000)] {
            assert!(PasswordHash::from_base64(Hashing::Sha256, text).is_err());
        }
    }
}
