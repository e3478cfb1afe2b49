//! A JSON value, and objects whose members stand in the order of QEMU's hash table.
//!
//! QEMU keeps the members of an object in 512 buckets and walks them in bucket order, the last
//! inserted first within one bucket. Replies, the `id` that is echoed and the order of the checks
//! on a request all show that order, so an [`Object`] is kept sorted by it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// A JSON value. Numbers keep the three kinds that QEMU tells apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits in 64 bits with a sign.
    Int(i64),
    /// An integer above `i64::MAX` that fits in 64 bits.
    Uint(u64),
    /// Any other number; finite or not.
    Double(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Uint(value), Self::Int)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Self::Array(value)
    }
}

impl From<Object> for Value {
    fn from(value: Object) -> Self {
        Self::Object(value)
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Value {
    fn from(members: [(&str, Value); N]) -> Self {
        Self::Object(members.into())
    }
}

/// A JSON object: members with distinct keys, in QEMU's hash order.
///
/// ```
/// use aerostat_qmp::json::{Object, Value};
/// let version = Object::from([("major", 10_u64.into()), ("minor", 0_u64.into())]);
/// let keys: Vec<_> = version.iter().map(|(key, _)| key).collect();
/// assert_eq!(keys, ["minor", "major"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    members: Vec<(String, Value)>,
}

impl Object {
    /// The value of member `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.iter().find(|(name, _)| *name == key).map(|(_, v)| v)
    }

    /// The members in hash order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.members
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the object is `{}`.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Object {
    fn from(members: [(&str, Value); N]) -> Self {
        let mut builder = ObjectBuilder::default();
        for (key, value) in members {
            // A literal with a key twice is a slip in the source; the first one stands.
            let _ = builder.insert(key.to_owned(), value);
        }
        builder.finish()
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

/// Up to this many members a linear search for a duplicate is cheaper than hashing.
const SMALL_OBJECT: usize = 16;

/// Collects members in the order of the text, and sorts them once at the end.
#[derive(Debug, Default)]
pub(super) struct ObjectBuilder {
    members: Vec<(String, Value)>,
    /// Hashes of the keys once there are more than [`SMALL_OBJECT`], so that an object with very
    /// many members takes linear time. Keyed anew in each builder, since clients choose the keys.
    seen: Option<(RandomState, HashSet<u64>)>,
}

impl ObjectBuilder {
    /// Adds a member. `Err` gives the key back if there is a member of that name already.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), String> {
        if self.contains(&key) {
            return Err(key);
        }
        self.members.push((key, value));
        Ok(())
    }

    fn contains(&mut self, key: &str) -> bool {
        if self.members.len() > SMALL_OBJECT {
            let members = &self.members;
            let (state, hashes) = self.seen.get_or_insert_with(|| {
                let state = RandomState::new();
                let hashes = members.iter().map(|(key, _)| state.hash_one(key)).collect();
                (state, hashes)
            });
            if hashes.insert(state.hash_one(key)) {
                return false;
            }
        }
        self.members.iter().any(|(name, _)| name == key)
    }

    /// The object, its members in hash order.
    pub(super) fn finish(self) -> Object {
        let mut members = self.members;
        if members.len() > 1 {
            // Reversed first: the sort is stable, and in one bucket the last inserted leads.
            members.reverse();
            members.sort_by_cached_key(|(key, _)| bucket(key));
        }
        Object { members }
    }
}

/// The bucket of `key` in QEMU's object hash table (512 buckets).
fn bucket(key: &str) -> u32 {
    // U+0000 is C0 80 in QEMU's strings, and counts so.
    let zeros = key.bytes().filter(|&byte| byte == 0).count();
    let len = u32::try_from(key.len() + zeros).unwrap_or(u32::MAX);
    let bytes = key.bytes().flat_map(|byte| match byte {
        0 => [0xC0, 0x80].into_iter().take(2),
        _ => [u32::from(byte), 0].into_iter().take(1),
    });
    let mut sum = 0x238F_13AF_u32.wrapping_mul(len);
    let mut shift = 0;
    for byte in bytes {
        sum = sum.wrapping_add(byte << shift);
        shift = (shift + 5) % 24;
    }
    sum.wrapping_mul(1_103_515_243).wrapping_add(12_345) % 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_members_fall_in_the_buckets_of_qemu() {
        let buckets = ["exec-oob", "execute", "arguments", "id"].map(bucket);
        assert_eq!(buckets, [162, 299, 447, 486]);
    }

    #[test]
    fn one_bucket_holds_the_last_inserted_first() {
        let [first, second] = ["minor", "micro"];
        assert_eq!(bucket(first), bucket(second));

        let object = Object::from([(first, Value::Null), (second, Value::Null)]);

        let keys: Vec<_> = object.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [second, first]);
    }

    #[test]
    fn duplicate_is_found_in_small_and_large_objects() {
        for members in [2, SMALL_OBJECT + 1, 1000] {
            let mut builder = ObjectBuilder::default();
            for n in 0..members {
                assert_eq!(builder.insert(n.to_string(), Value::Null), Ok(()));
            }
            assert_eq!(builder.insert("1".into(), Value::Null), Err("1".into()));
            assert_eq!(builder.finish().len(), members);
        }
    }

    #[test]
    fn unsigned_value_is_an_int_when_it_fits() {
        assert_eq!(Value::from(1_u64), Value::Int(1));
        assert_eq!(Value::from(u64::MAX), Value::Uint(u64::MAX));
    }
}
