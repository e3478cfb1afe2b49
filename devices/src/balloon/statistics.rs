//! What the guest says of its memory (virtio 1.2 §5.5.6.3).

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of one entry: a tag of 16 bits and a value of 64, packed and little-endian.
pub(super) const ENTRY_BYTES: usize = 10;
/// Tags that have a meaning.
const TAGS: usize = 16;
/// The longest buffer that is read: some ten times what has a meaning. What follows is ignored.
pub(super) const MAX_BYTES: usize = 200 * ENTRY_BYTES;

/// What the guest said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// The values by tag: memory in bytes, the rest counts of events. `u64::MAX` for what the
    /// guest did not say.
    pub values: [u64; TAGS],
    /// When it said it, in seconds since 1970; 0 for never.
    pub last_update: u64,
    /// How many times it has answered since its driver is there. What it says of its own accord, as
    /// at first, is no answer.
    pub answers: u64,
}

impl Default for Statistics {
    /// Nothing was ever said.
    fn default() -> Self {
        Self {
            values: [u64::MAX; TAGS],
            last_update: 0,
            answers: 0,
        }
    }
}

impl Statistics {
    /// What a buffer says, now, after which there have been so many answers. Unknown tags are ignored, as is a broken entry at the end; of a
    /// tag that comes twice the last counts.
    pub(super) fn from_bytes(bytes: &[u8], answers: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut statistics = Self {
            last_update: now.map_or(0, |time| time.as_secs()),
            answers,
            ..Self::default()
        };
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        for entry in entries {
            let [t0, t1, value @ ..] = *entry;
            let tag = usize::from(u16::from_le_bytes([t0, t1]));
            if let Some(place) = statistics.values.get_mut(tag) {
                *place = u64::from_le_bytes(value);
            }
        }
        statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn values_stand_at_their_tags_and_the_rest_is_unset() {
        let bytes = [entry(4, 1000), entry(15, 7)].concat();
        let statistics = Statistics::from_bytes(&bytes, 7);
        let mut expected = [u64::MAX; 16];
        (expected[4], expected[15]) = (1000, 7);
        assert_eq!(statistics.values, expected);
        assert!(statistics.last_update > 0);
        assert_eq!(statistics.answers, 7);
    }

    #[test]
    fn unknown_tags_and_a_broken_end_are_ignored() {
        let bytes = [entry(16, 1), entry(u16::MAX, 2), vec![0; 9]].concat();
        assert_eq!(Statistics::from_bytes(&bytes, 0).values, [u64::MAX; 16]);
    }
}
