//! From an event's topic and id to its seq. Ids are unique within a topic.
//!
//! Ids that the hub makes have both in them: a UUIDv7 whose random bits are topic number and seq, enciphered so that nobody
//! can read them or guess another event's, whatever other ids they know. For ids that publishers choose, each segment has a table, sorted by a hash. Most of them are
//! UUIDv7s too, made when they were published, so a segment remembers from when to when its ids were made and is not
//! looked into for others; for ids that are no UUIDv7, or one of another time, it has a Bloom filter.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    io,
    sync::Arc,
};

use ring::aead::quic::{AES_128, HeaderProtectionKey};
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::disk::{DiskFile, read_exact};

/// Most bits of a topic number that an id can hold.
const TOPIC_BITS: u32 = 24;
/// Most bits of a seq that an id can hold.
const SEQ_BITS: u32 = 48;
/// Bits that are enciphered, in two halves, and how often one half is mixed into the other.
const HALF_BITS: u32 = 37;
const ROUNDS: u8 = 6;
/// Parts of a segment's table, by the first bits of the hash.
pub(crate) const BUCKETS: usize = 256;
/// Bytes of an entry of a table: hash and offset.
pub(crate) const ENTRY: usize = 12;
/// Bits per id in a filter, and how many of them an id sets: about one wrong answer in a hundred.
const FILTER_BITS: usize = 10;
const FILTER_HASHES: u64 = 6;
/// A UUIDv7 counts by its time if that is so near to when it was published, in milliseconds.
const NEAR: u64 = 60_000;

/// What a store enciphers its ids with. Made once: each id that a publisher chose is looked at with it, and making it takes
/// as long as that.
pub(crate) struct Cipher {
    secret: u64,
    /// AES, as far as ring gives it away: five bytes of a block.
    key: Option<HeaderProtectionKey>,
}

impl Cipher {
    /// `secret`: [`Shared::store`](crate::shared::Shared::store).
    pub(crate) fn new(secret: u64) -> Self {
        let key = xxh3_128_with_seed(b"ids of this store", secret).to_le_bytes();
        Self { secret, key: HeaderProtectionKey::new(&AES_128, &key).ok() }
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

/// Makes the hub's ids of one millisecond.
pub(crate) struct Maker<'a> {
    ms: u64,
    cipher: &'a Cipher,
}

impl<'a> Maker<'a> {
    /// `ms`: milliseconds since the Unix epoch.
    pub(crate) fn new(cipher: &'a Cipher, ms: u64) -> Self {
        Self { ms: ms & ((1 << 48) - 1), cipher }
    }

    /// The id of an event; `None` if topic or seq is too large for an id.
    pub(crate) fn make(&self, topic: u32, seq: u64) -> Option<Arc<str>> {
        if topic >> TOPIC_BITS != 0 || seq >> SEQ_BITS != 0 {
            return None;
        }
        Some(compose(self.ms, self.encipher(u128::from(topic) << SEQ_BITS | u128::from(seq))?))
    }

    // A Feistel network: whatever the rounds are, it can be undone, and with these it is a random permutation to whoever
    // has no key. Two ids of one millisecond tell nothing of how their seqs or topics differ.
    fn encipher(&self, bits: u128) -> Option<u128> {
        let (mut left, mut right) = halves(bits);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.mix(round, right)?);
        }
        Some(u128::from(left) << HALF_BITS | u128::from(right))
    }

    fn decipher(&self, bits: u128) -> Option<u128> {
        let (mut left, mut right) = halves(bits);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.mix(round, left)?, left);
        }
        Some(u128::from(left) << HALF_BITS | u128::from(right))
    }

    fn mix(&self, round: u8, half: u64) -> Option<u64> {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&half.to_le_bytes());
        block[8..].copy_from_slice(&(self.ms << 8 | u64::from(round)).to_le_bytes());
        let [a, b, c, d, e] = self.cipher.key.as_ref()?.new_mask(&block).ok()?;
        Some(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]) & ((1 << HALF_BITS) - 1))
    }
}

fn halves(bits: u128) -> (u64, u64) {
    let half = (1 << HALF_BITS) - 1;
    ((bits >> HALF_BITS) as u64 & half, bits as u64 & half)
}

/// The UUIDv7 of a time, with these random bits.
fn compose(ms: u64, bits: u128) -> Arc<str> {
    let (high, low) = (bits >> 62, bits & ((1 << 62) - 1));
    let uuid = u128::from(ms) << 80 | 7 << 76 | high << 64 | 2 << 62 | low;
    let mut text = [0; 36];
    Arc::from(&*Uuid::from_u128(uuid).hyphenated().encode_lower(&mut text))
}

/// What older hubs masked topic and seq with, in all ids of a millisecond.
fn mask(secret: u64, ms: u64) -> u128 {
    xxh3_128_with_seed(&ms.to_le_bytes(), secret) & ((1 << (TOPIC_BITS + SEQ_BITS + 2)) - 1)
}

/// An id as older hubs made it.
#[cfg(test)]
pub(crate) fn older(secret: u64, ms: u64, topic: u32, seq: u64) -> Arc<str> {
    compose(ms, (u128::from(topic) << SEQ_BITS | u128::from(seq)) ^ mask(secret, ms))
}

/// The milliseconds of a UUIDv7, if `id` is one.
pub(crate) fn made_at(id: &str) -> Option<u64> {
    parse(id).map(|uuid| (uuid >> 80) as u64)
}

/// Topic number and seq of an id, if this hub made it, or an older one did. For another UUIDv7 they are random: whoever
/// calls reads that event and compares its id.
pub(crate) fn topic_and_seq(cipher: &Cipher, id: &str) -> impl Iterator<Item = (u32, u64)> {
    let bits = parse(id).map(|uuid| {
        let (ms, bits) = ((uuid >> 80) as u64, (uuid >> 64 & 0xfff) << 62 | (uuid & ((1 << 62) - 1)));
        [Maker::new(cipher, ms).decipher(bits), Some(bits ^ mask(cipher.secret, ms))]
    });
    let found = |bits: u128| {
        let (topic, seq) = (bits >> SEQ_BITS, bits & ((1 << SEQ_BITS) - 1));
        (topic >> TOPIC_BITS == 0).then_some((topic as u32, seq as u64))
    };
    bits.into_iter().flatten().flatten().filter_map(found)
}

fn parse(id: &str) -> Option<u128> {
    // A UUID without hyphens or in braces is another id.
    if id.len() != 36 {
        return None;
    }
    let uuid = Uuid::try_parse(id).ok()?;
    (uuid.get_version_num() == 7).then(|| uuid.as_u128())
}

/// The hash of a chosen id of a topic, given by number.
pub(crate) fn hash(secret: u64, topic: u32, id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), secret ^ u64::from(topic).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A chosen id that is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// See [`hash`].
    pub(crate) hash: u64,
    /// Without the topic, as in the tables of [`Hashed::Ids`]: the same id has the same hash on every topic there.
    pub(crate) of_id: u64,
    /// When it was made, if it is a UUIDv7.
    pub(crate) made_at: Option<u64>,
}

impl Wanted {
    pub(crate) fn new(secret: u64, topic: u32, id: &str) -> Self {
        let of_id = xxh3_64_with_seed(id.as_bytes(), secret);
        Self { hash: hash(secret, topic, id), of_id, made_at: made_at(id) }
    }
}

/// What the hashes of a table are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hashed {
    /// Ids alone: in tables of older hubs, where ids were unique over all topics.
    Ids,
    /// Topics and ids.
    #[default]
    TopicsAndIds,
}

/// From when to when the UUIDv7s of a segment were made, and how many other ids it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) others: u32,
}

impl Default for Span {
    fn default() -> Self {
        Self { from: u64::MAX, to: 0, others: 0 }
    }
}

impl Span {
    /// Adds an id; returns whether it is in the span. An id of a clock that is wrong is not: a single one would stretch the
    /// span over the ids of all other segments.
    fn add(&mut self, id: &str, now: u64) -> bool {
        match made_at(id).filter(|ms| ms.abs_diff(now) <= NEAR) {
            Some(ms) => {
                self.from = self.from.min(ms);
                self.to = self.to.max(ms);
                true
            }
            None => {
                self.others += 1;
                false
            }
        }
    }
}

/// A hasher that leaves hashes as they are. For topic numbers it is cheap, and safe because publishers cannot choose them.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// A topic number, spread over all bits: a `HashMap` uses the first and the last ones.
    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The chosen ids of a segment whose table is not written yet.
#[derive(Debug, Default)]
pub(crate) struct IdMap {
    /// By hash: the offset of the event.
    offsets: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    /// Hash and offset of events whose hash is in `offsets` already.
    more: Vec<(u64, u32)>,
    /// Hashes of the ids that are not in the span.
    others: Vec<u64>,
    span: Span,
}

impl IdMap {
    /// Adds an id of a topic, given by number, that was published at `now`.
    pub(crate) fn add(&mut self, secret: u64, topic: u32, id: &str, offset: u32, now: u64) {
        let hash = hash(secret, topic, id);
        if !self.span.add(id, now) {
            self.others.push(hash);
        }
        if let Entry::Vacant(entry) = self.offsets.entry(hash) {
            entry.insert(offset);
        } else {
            self.more.push((hash, offset));
        }
    }

    /// Offsets at which an event of that id may stand.
    pub(crate) fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let first = self.offsets.get(&hash).copied();
        let more = if first.is_some() { &*self.more } else { &[] };
        first.into_iter().chain(more.iter().filter(move |(own, _)| *own == hash).map(|(_, offset)| *offset))
    }

    /// The table as it is written: what stays in memory, and the bytes of the entries.
    pub(crate) fn table(&self) -> (IdTable, Vec<u8>) {
        let mut entries: Vec<(u64, u32)> =
            self.offsets.iter().map(|(hash, offset)| (*hash, *offset)).chain(self.more.iter().copied()).collect();
        entries.sort_unstable();
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        for (hash, offset) in &entries {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let mut buckets = Vec::new();
        if !entries.is_empty() {
            let starts = |bucket: usize| entries.partition_point(|(hash, _)| bucket_of(*hash) < bucket);
            for bucket in 0..BUCKETS {
                let (start, end) = (starts(bucket), starts(bucket + 1));
                buckets.push((start as u32, xxh3_64(&bytes[start * ENTRY..end * ENTRY]) as u32));
            }
        }
        let filter = Filter::new(&self.others);
        let (span, hashed) = (self.span, Hashed::default());
        (IdTable { span, filter, buckets, entries: entries.len() as u32, hashed }, bytes)
    }
}

fn bucket_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The chosen ids of a sealed segment: what of its table is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IdTable {
    pub(crate) span: Span,
    pub(crate) filter: Filter,
    /// First entry and checksum of each bucket; empty if there are no entries.
    pub(crate) buckets: Vec<(u32, u32)>,
    /// How many entries there are.
    pub(crate) entries: u32,
    pub(crate) hashed: Hashed,
}

impl IdTable {
    fn hash(&self, wanted: &Wanted) -> u64 {
        match self.hashed {
            Hashed::Ids => wanted.of_id,
            Hashed::TopicsAndIds => wanted.hash,
        }
    }

    /// Whether an id may be among these.
    pub(crate) fn may_have(&self, wanted: &Wanted) -> bool {
        wanted.made_at.is_some_and(|ms| (self.span.from..=self.span.to).contains(&ms))
            || (self.span.others > 0 && self.filter.may_have(self.hash(wanted)))
    }

    /// Offsets at which an event of that id may stand. The entries begin at `at` of `file`.
    pub(crate) fn find(&self, file: &dyn DiskFile, at: u64, wanted: &Wanted) -> io::Result<Vec<u32>> {
        let hash = self.hash(wanted);
        let bucket = bucket_of(hash);
        let Some((start, check)) = self.buckets.get(bucket).copied() else { return Ok(Vec::new()) };
        let end = self.buckets.get(bucket + 1).map_or(self.entries, |(start, _)| *start);
        let mut bytes = vec![0; (end.saturating_sub(start)) as usize * ENTRY];
        read_exact(file, &mut bytes, at + u64::from(start) * ENTRY as u64)?;
        if xxh3_64(&bytes) as u32 != check {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a table of ids is damaged"));
        }
        let wanted = hash.to_le_bytes();
        let found = bytes.chunks_exact(ENTRY).filter(|entry| entry[..8] == wanted);
        Ok(found.filter_map(|entry| Some(u32::from_le_bytes(entry[8..].try_into().ok()?))).collect())
    }
}

/// A Bloom filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter(pub(crate) Vec<u8>);

impl Filter {
    fn new(hashes: &[u64]) -> Self {
        let mut filter = Self(vec![0; (hashes.len() * FILTER_BITS).div_ceil(8)]);
        for hash in hashes {
            for bit in filter.bits(*hash) {
                filter.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    fn bits(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.0.len() as u64 * 8;
        let step = hash.rotate_left(32) | 1;
        (0..FILTER_HASHES).map(move |i| (hash.wrapping_add(i.wrapping_mul(step)) % count) as usize)
    }

    fn may_have(&self, hash: u64) -> bool {
        !self.0.is_empty() && self.bits(hash).all(|bit| self.0[bit / 8] & 1 << (bit % 8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_topic_and_seq_to_whoever_has_the_secret() {
        let cipher = Cipher::new(42);
        let maker = Maker::new(&cipher, 1_790_000_000_123);
        for (topic, seq) in [(0, 1), (77, 123_456_789), ((1 << 24) - 1, (1 << 48) - 1)] {
            let id = maker.make(topic, seq).unwrap();
            assert_eq!(first(42, &id), Some((topic, seq)));
            assert!(!topic_and_seq(&Cipher::new(43), &id).any(|own| own == (topic, seq)));
            let old = older(42, 1_790_000_000_123, topic, seq);
            assert!(topic_and_seq(&Cipher::new(42), &old).any(|own| own == (topic, seq)), "of an older hub");
            assert_eq!(made_at(&id), Some(1_790_000_000_123));
            assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7);
            assert_eq!(first(42, &id.to_uppercase()), first(42, &id), "the reader compares the id");
        }
        assert_ne!(maker.make(1, 1), maker.make(1, 2));
        assert_eq!(maker.make(1 << 24, 1), None);
        assert_eq!(maker.make(1, 1 << 48), None);
        for other in ["", "x", "not-a-uuid-but-thirty-six-bytes-long", "936da01f-9abd-4d9d-80c7-02af85c822a8"] {
            assert_eq!((first(42, other), made_at(other)), (None, None), "{other}");
        }
    }

    fn first(secret: u64, id: &str) -> Option<(u32, u64)> {
        topic_and_seq(&Cipher::new(secret), id).next()
    }

    /// All ids of a millisecond had the same mask: two of them, and the seq of one, gave the other's seq and topic number.
    #[test]
    fn two_ids_of_one_millisecond_tell_nothing_of_each_other() {
        let cipher = Cipher::new(42);
        let maker = Maker::new(&cipher, 1_790_000_000_123);
        let bits = |topic, seq| Uuid::parse_str(&maker.make(topic, seq).unwrap()).unwrap().as_u128();
        let mut flipped = [0; 128];
        for seq in 0..1_000 {
            let difference = bits(7, seq) ^ bits(7, seq + 1);
            (0..128).for_each(|bit| flipped[bit] += (difference >> bit & 1) as u32);
        }
        // Version and variant stand still, and so does the time; every other bit changes half of the time.
        let random = (0..62).chain(64..76);
        assert!(random.clone().all(|bit| (350..650).contains(&flipped[bit])), "{flipped:?}");
        assert_eq!(flipped.iter().filter(|count| **count > 0).count(), 74);
        assert_ne!(bits(7, 1) ^ bits(7, 2), bits(8, 1) ^ bits(8, 2));
    }

    #[test]
    fn a_written_table_finds_what_the_map_found() {
        #[derive(Debug)]
        struct Memory(Vec<u8>);
        impl DiskFile for Memory {
            fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
                let from = &self.0[at as usize..];
                let length = buf.len().min(from.len());
                buf[..length].copy_from_slice(&from[..length]);
                Ok(length)
            }
            fn write(&self, _: &[u8], _: u64) -> io::Result<()> {
                Ok(())
            }
            fn sync(&self) -> io::Result<()> {
                Ok(())
            }
            fn len(&self) -> io::Result<u64> {
                Ok(self.0.len() as u64)
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn zero_from(&self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
        }

        let mut map = IdMap::default();
        let cipher = Cipher::new(1);
        let maker = Maker::new(&cipher, 5_000);
        let ids: Vec<String> = (0..5_000)
            .map(|i| if i % 2 == 0 { format!("mine-{i}") } else { maker.make(9, i).unwrap().to_string() })
            .collect();
        for (offset, id) in ids.iter().enumerate() {
            map.add(7, 1, id, offset as u32, 5_000);
        }
        // The same hash once more.
        map.add(7, 1, &ids[3], 9_999, 5_000);
        let wanted = |id: &str| Wanted::new(7, 1, id);
        let (table, bytes) = map.table();
        let file = Memory([vec![0; 100], bytes].concat());
        for (offset, id) in ids.iter().enumerate() {
            assert!(table.may_have(&wanted(id)));
            let found = table.find(&file, 100, &wanted(id)).unwrap();
            assert!(found.contains(&(offset as u32)));
            assert_eq!(map.find(wanted(id).hash).collect::<Vec<_>>(), found);
            assert_eq!(table.find(&file, 100, &Wanted::new(7, 2, id)).unwrap(), [0; 0], "on another topic");
        }
        assert_eq!(table.find(&file, 100, &wanted(&ids[3])).unwrap(), [3, 9_999]);
        let later = Maker::new(&cipher, 5_001).make(9, 1).unwrap();
        assert!(!table.may_have(&wanted(&later)), "made later");
        let wrong = (0..10_000).filter(|i| table.may_have(&wanted(&format!("other-{i}")))).count();
        assert!(wrong < 300, "{wrong} of 10,000");
        // As older hubs wrote it.
        let old = IdTable { hashed: Hashed::Ids, ..table.clone() };
        assert_eq!(old.hash(&wanted("x")), old.hash(&Wanted::new(7, 2, "x")));
        let mut damaged = file;
        damaged.0[5_000] ^= 1;
        assert!(ids.iter().any(|id| table.find(&damaged, 100, &wanted(id)).is_err()), "damage is noticed");
        // A publisher whose clock is off does not make everybody's ids be looked for here.
        let mut map = IdMap::default();
        for (i, ms) in [5_000, 5_000 + 2 * NEAR, 0].into_iter().enumerate() {
            map.add(7, 1, &Maker::new(&cipher, ms).make(1, 1).unwrap(), i as u32, 5_000 + NEAR);
        }
        let (table, _) = map.table();
        assert_eq!(table.span, Span { from: 5_000, to: 5_000 + 2 * NEAR, others: 1 });
        let (empty, bytes) = IdMap::default().table();
        assert!(bytes.is_empty() && !empty.may_have(&wanted("x")) && !empty.may_have(&wanted(&later)));
    }
}
