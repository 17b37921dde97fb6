//! A keyed hash for names and keys that clients choose.
//!
//! Fx and other unkeyed hashes let one client fill a bucket at will: sixteen-byte keys that share
//! their first half are enough. Here both multiplicands depend on the router's secret seed.

use std::hash::{BuildHasher, Hasher};

/// Hashes the keys of a map that clients choose.
#[derive(Clone, Copy, Debug)]
pub struct KeyedHash(Seed);

impl KeyedHash {
    /// With a secret that differs from start to start.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Seed::new(seed))
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = KeyedHasher;

    #[inline]
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            seed: self.0,
            state: 0,
        }
    }
}

/// The hash of one key.
#[derive(Clone, Copy, Debug)]
pub struct KeyedHasher {
    seed: Seed,
    state: u64,
}

impl Hasher for KeyedHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.state = self.seed.then(self.state, self.seed.bytes(bytes));
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.state = self.seed.then(self.state, number as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

/// The secret of one router's hash tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed {
    a: u64,
    b: u64,
}

impl Seed {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            a: mix(seed),
            b: mix(seed ^ 0xd1b5_4a32_d192_ed03),
        }
    }

    /// The hash of a byte string.
    pub(crate) fn bytes(self, bytes: &[u8]) -> u64 {
        let start = self.a ^ (bytes.len() as u64).wrapping_mul(GOLDEN);
        if bytes.len() > 16 {
            return self.long(start, bytes);
        }
        let (low, high) = if let (Some(low), Some(high)) = (bytes.first_chunk(), bytes.last_chunk())
        {
            (u64::from_le_bytes(*low), u64::from_le_bytes(*high))
        } else if let (Some(low), Some(high)) = (bytes.first_chunk(), bytes.last_chunk()) {
            (
                u64::from(u32::from_le_bytes(*low)),
                u64::from(u32::from_le_bytes(*high)),
            )
        } else {
            let short = bytes
                .iter()
                .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
            (short, 0)
        };
        fold(start ^ low, self.b ^ high)
    }

    /// The hash of two internal ids.
    pub(crate) fn pair(self, first: u32, second: u32) -> u64 {
        fold(
            self.a ^ (u64::from(first) << 32 | u64::from(second)),
            self.b,
        )
    }

    /// Continues a hash with one more word.
    pub(crate) fn then(self, hash: u64, word: u64) -> u64 {
        fold(hash ^ word, self.b)
    }

    fn long(self, start: u64, bytes: &[u8]) -> u64 {
        let (chunks, rest) = bytes.as_chunks::<16>();
        let mut sum = chunks
            .iter()
            .fold(start, |sum, chunk| self.chunk(sum, *chunk));
        if !rest.is_empty()
            && let Some(tail) = bytes.last_chunk::<16>()
        {
            sum = self.chunk(sum, *tail);
        }
        sum
    }

    fn chunk(self, sum: u64, chunk: [u8; 16]) -> u64 {
        let wide = u128::from_le_bytes(chunk);
        fold(sum ^ wide as u64, self.b ^ (wide >> 64) as u64)
    }
}

/// Multiplies and folds the 128-bit product, so that every input bit reaches every output bit.
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ (product >> 64) as u64
}

/// SplitMix64's finalizer.
pub(crate) const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Spreads a small number over all bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_length_and_every_byte_counts() {
        let seed = Seed::new(7);
        let mut hashes = HashSet::new();
        let mut inputs = 0;
        for len in 0..80usize {
            let zeros = vec![0u8; len];
            assert!(hashes.insert(seed.bytes(&zeros)), "length {len}");
            inputs += 1;
            for at in 0..len {
                let mut one = zeros.clone();
                one[at] = 1;
                assert!(hashes.insert(seed.bytes(&one)), "length {len}, byte {at}");
                inputs += 1;
            }
        }
        assert_eq!(hashes.len(), inputs);
    }

    #[test]
    fn the_seed_changes_the_order_of_buckets() {
        let keys: Vec<[u8; 16]> = (0..64u64).map(|i| u128::from(i).to_le_bytes()).collect();
        let buckets = |seed: u64| -> Vec<u64> {
            keys.iter()
                .map(|key| Seed::new(seed).bytes(key) & 15)
                .collect()
        };
        assert_ne!(buckets(1), buckets(2));
        let one_bucket_at_most = buckets(1).iter().filter(|b| **b == 0).count();
        assert!(
            one_bucket_at_most < 20,
            "{one_bucket_at_most} of 64 keys in one of 16 buckets"
        );
    }
}
