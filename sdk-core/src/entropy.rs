//! Randomness from a seed that the shell gives, for jitter and for event ids.

use uuid::Builder;

/// xoroshiro128++: small, fast, and 128 bits of state so that two clients never share their ids.
#[derive(Debug)]
pub struct Entropy([u64; 2]);

impl Entropy {
    /// A generator whose numbers follow from `seed`.
    pub fn new(seed: [u64; 2]) -> Self {
        // All zeros is the one state the generator never leaves.
        Self(if seed == [0, 0] { [0x9e37_79b9_7f4a_7c15, 1] } else { seed })
    }

    pub(crate) fn next(&mut self) -> u64 {
        let [a, mut b] = self.0;
        let result = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
        b ^= a;
        self.0 = [a.rotate_left(49) ^ b ^ (b << 21), b.rotate_left(28)];
        result
    }

    /// A number from 0 to `bound`, both included.
    pub(crate) fn up_to(&mut self, bound: u64) -> u64 {
        let random = self.next();
        bound.checked_add(1).map_or(random, |n| random % n)
    }

    /// A UUIDv7 of that Unix time.
    pub(crate) fn event_id(&mut self, unix_ms: u64) -> String {
        let mut random = [0; 10];
        let (low, high) = random.split_at_mut(8);
        low.copy_from_slice(&self.next().to_le_bytes());
        high.copy_from_slice(&self.next().to_le_bytes()[..2]);
        let mut text = [0; 36];
        Builder::from_unix_timestamp_millis(unix_ms, &random)
            .into_uuid()
            .hyphenated()
            .encode_lower(&mut text)
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuid_v7_of_the_given_time_and_differ() {
        let mut entropy = Entropy::new([0, 0]);
        let ids: Vec<String> = (0..1000).map(|_| entropy.event_id(0x0192_0000_0001)).collect();
        for id in &ids {
            assert!(id.starts_with("01920000-0001-7"), "{id}");
        }
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
    }

    #[test]
    fn numbers_keep_to_their_bound() {
        let mut entropy = Entropy::new([1, 2]);
        assert!((0..1000).all(|_| entropy.up_to(3) <= 3));
        assert_eq!(entropy.up_to(0), 0);
        entropy.up_to(u64::MAX);
    }
}
