//! Objects whose members stand in the order of QEMU's hash table.
//!
//! QEMU keeps the members of an object in 512 buckets and walks them in bucket order, the last
//! inserted first within one bucket. Replies, the `id` that is echoed and the order of the checks
//! on a request all show that order. A [`serde_json::Map`] keeps the order of insertion (feature
//! `preserve_order`), so its members are inserted in hash order.

use std::mem::take;

use serde_json::{Map, Value};

use super::JsonError;

/// Buckets of QEMU's hash table.
const BUCKETS: usize = 512;
/// From this many members on, sorting by comparison costs more than counting.
const MANY_MEMBERS: usize = 20;

/// An object with these members, put in hash order.
///
/// ```
/// use aerostat_qmp::json::object;
/// let version = object([("major", 10.into()), ("minor", 0.into())]);
/// let keys: Vec<_> = version.as_object().unwrap().keys().collect();
/// assert_eq!(keys, ["minor", "major"]);
/// ```
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    object_of(members)
}

/// An object with as many members as come, put in hash order.
pub fn object_of<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let members = members.into_iter();
    let mut members: Vec<_> = members
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    sort(&mut members);
    Map::from_iter(members).into()
}

/// An object of the members of a text, in the order of the text.
///
/// # Errors
///
/// [`JsonError::DuplicateKey`].
pub(super) fn from_text(mut members: Vec<(String, Value)>) -> Result<Value, JsonError> {
    let mut object = Map::with_capacity(members.len());
    let insert = |(key, value)| match object.insert(key, value) {
        Some(_) => Err(JsonError::DuplicateKey),
        None => Ok(()),
    };
    if members.len() < MANY_MEMBERS {
        sort(&mut members);
        members.into_iter().try_for_each(insert)?;
    } else {
        let order = hash_order(&members);
        let mut ordered = order.into_iter().map(|index| take(&mut members[index]));
        ordered.try_for_each(insert)?;
    }
    Ok(object.into())
}
/// Puts few members in hash order that are in the order of their insertion.
fn sort(members: &mut [(String, Value)]) {
    // Reversed first: the sort is stable, and in one bucket the last inserted leads.
    members.reverse();
    members.sort_by_key(|(key, _)| bucket(key));
}

/// The indices of many members in hash order, in a time that grows with their number alone.
fn hash_order(members: &[(String, Value)]) -> Vec<usize> {
    let buckets: Vec<usize> = members.iter().map(|(key, _)| bucket(key)).collect();
    // Where the next member of each bucket goes.
    let mut next = [0; BUCKETS];
    for &bucket in &buckets {
        next[bucket] += 1;
    }
    let mut start = 0;
    for next in &mut next {
        start += std::mem::replace(next, start);
    }
    let mut order = vec![0; members.len()];
    for (index, &bucket) in buckets.iter().enumerate().rev() {
        order[next[bucket]] = index;
        next[bucket] += 1;
    }
    order
}

/// The bucket of `key` in QEMU's object hash table.
fn bucket(key: &str) -> usize {
    // U+0000 is C0 80 in QEMU's strings, and counts so.
    let zeros = key.bytes().filter(|&byte| byte == 0).count();
    let len = u32::try_from(key.len() + zeros).unwrap_or(u32::MAX);
    let mut sum = 0x238F_13AF_u32.wrapping_mul(len);
    let mut shift = 0;
    let mut add = |byte: u8| {
        sum = sum.wrapping_add(u32::from(byte) << shift);
        shift = (shift + 5) % 24;
    };
    for byte in key.bytes() {
        match byte {
            0 => [0xC0, 0x80].into_iter().for_each(&mut add),
            _ => add(byte),
        }
    }
    sum.wrapping_mul(1_103_515_243).wrapping_add(12_345) as usize % BUCKETS
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

        let object = object([(first, Value::Null), (second, Value::Null)]);

        let keys: Vec<_> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, [second, first]);
    }

    #[test]
    fn many_members_stand_in_the_order_of_few() {
        let members: Vec<_> = (0..5000).map(|key| (key.to_string(), key.into())).collect();
        let mut sorted = members.clone();
        sort(&mut sorted);
        let object = from_text(members).unwrap();
        let members = object.as_object().unwrap();
        assert!(
            members
                .iter()
                .eq(sorted.iter().map(|(key, value)| (key, value)))
        );
    }

    #[test]
    fn duplicate_is_found_among_few_and_many() {
        for count in [2, 17, 1000] {
            let keys = || (0..count).map(|key| (key.to_string(), Value::Null));
            assert!(from_text(keys().collect()).is_ok());
            let again = keys().chain(keys().skip(1).take(1)).collect();
            assert_eq!(from_text(again), Err(JsonError::DuplicateKey));
        }
    }
}
