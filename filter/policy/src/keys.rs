//! Keys: what has its own state within a policy, and its text in metrics, headers and logs.
//!
//! Values that come from requests never become names in the store. They are entered into a table of at most `max_keys`
//! entries, in which all workers find the same number for the same text; what comes after that shares one overflow key.

use std::collections::HashMap;

use crate::document::{Dimension, Scope};
use crate::fingerprint;
use crate::record::{Kind, Reader, Record, Writer};
use crate::store::{Expected, Store};

/// The number of a key within its policy; below `max_keys`, or `max_keys` for the overflow key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyNumber(pub u16);

/// The text of the one key of a policy with an empty scope.
pub const ALL: &str = "all";

/// The text of the key that later values share.
pub const OVERFLOW: &str = "overflow";

/// The longest value that a key's text shows whole, in bytes.
const LONGEST_VALUE: usize = 96;

/// The longest values, joined, that a worker keeps to save making their text again, in bytes.
pub(crate) const LONGEST_JOINED: usize = 512;

/// The text of the key for these values, which are in the order of `scope.by`:
/// `cluster=orders,x-tenant=a`. A value that is too long or has bytes outside a plain set is shortened and
/// marked with a hash, so that different values stay different.
pub fn text(scope: &Scope, values: &[impl AsRef<[u8]>]) -> String {
    if scope.by.is_empty() {
        return ALL.to_owned();
    }
    let mut text = String::with_capacity(32);
    for (dimension, value) in scope.by.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(match dimension {
            Dimension::Cluster => "cluster",
            Dimension::Route => "route",
            Dimension::Authority => "authority",
            Dimension::Header(name) => name,
        });
        text.push('=');
        push_value(&mut text, value.as_ref());
    }
    text
}

fn push_value(text: &mut String, value: &[u8]) {
    let mut whole = value.len() <= LONGEST_VALUE;
    for byte in value.iter().take(LONGEST_VALUE) {
        let plain = byte.is_ascii_alphanumeric() || b"._-/|:@+".contains(byte);
        text.push(if plain { char::from(*byte) } else { '_' });
        whole &= plain;
    }
    if !whole {
        text.push('~');
        for shift in [28, 24, 20, 16, 12, 8, 4, 0] {
            let digit = (fingerprint::of_text(value) >> shift & 0xf) as u32;
            text.push(char::from_digit(digit, 16).unwrap_or('0'));
        }
    }
}

/// The name of one key, as it stands in the store.
struct KeyName(String);

impl Record for KeyName {
    const KIND: Kind = Kind::KeyName;
    fn write(&self, out: &mut Writer) {
        out.bytes(self.0.as_bytes());
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        core::str::from_utf8(input.bytes()?).ok().map(|text| KeyName(text.to_owned()))
    }
}

/// One worker's copy of a policy's key table.
#[derive(Debug)]
pub struct KeyTable {
    prefix: String,
    fingerprint: u64,
    most: u16,
    /// Entries of the table that this worker has read, from the front.
    read: u16,
    /// By the bytes of their texts: the module has the code of such a map anyway.
    by_text: HashMap<Vec<u8>, KeyNumber>,
    /// The values as they came, joined; saves making the text again.
    by_values: HashMap<Vec<u8>, KeyNumber>,
    /// Those of the last request: most have the same as the one before.
    last: Option<(Vec<u8>, KeyNumber)>,
    /// Where values are joined; kept to reuse its memory.
    joined: Vec<u8>,
    texts: Vec<String>,
}

impl KeyTable {
    /// A copy that has read nothing yet. `prefix` is the policy's in the store.
    pub fn new(prefix: &str, fingerprint: u64, scope: &Scope) -> Self {
        KeyTable {
            prefix: format!("{prefix}/key/"),
            fingerprint,
            most: scope.max_keys.get(),
            read: 0,
            by_text: HashMap::new(),
            by_values: HashMap::new(),
            last: None,
            joined: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// The text of a key.
    pub fn text(&self, number: KeyNumber) -> &str {
        if number.0 >= self.most {
            return OVERFLOW;
        }
        self.texts.get(usize::from(number.0)).map_or(OVERFLOW, String::as_str)
    }

    /// The number of the key for these values, entered into the table if it is new and there is room.
    pub fn number<S: Store>(&mut self, store: &mut S, scope: &Scope, values: &[impl AsRef<[u8]>]) -> KeyNumber {
        let mut joined = core::mem::take(&mut self.joined);
        joined.clear();
        for value in values.iter().map(AsRef::as_ref) {
            // The length keeps ("a", "bc") and ("ab", "c") apart, whatever bytes a client sends.
            joined.extend_from_slice(&(value.len() as u64).to_le_bytes());
            joined.extend_from_slice(value);
        }
        let number = match &self.last {
            Some((last, number)) if *last == joined => *number,
            _ => self.look_up(store, scope, values, &joined),
        };
        // A client does not decide how much of its values is kept.
        if joined.capacity() <= LONGEST_JOINED {
            self.joined = joined;
        }
        number
    }

    #[inline(never)]
    fn look_up<S: Store>(
        &mut self,
        store: &mut S,
        scope: &Scope,
        values: &[impl AsRef<[u8]>],
        joined: &[u8],
    ) -> KeyNumber {
        let known = self.by_values.get(joined).copied();
        let number = known.unwrap_or_else(|| {
            let text = text(scope, values);
            match self.by_text.get(text.as_bytes()) {
                Some(number) => *number,
                None => self.enter(store, text),
            }
        });
        // Different values can share a text only by a collision of hashes, but any number of values can overflow.
        // Nor does a client decide how much of its values is kept.
        if number.0 < self.most && joined.len() <= LONGEST_JOINED {
            if known.is_none() && self.by_values.len() < 4 * usize::from(self.most) {
                self.by_values.insert(joined.to_owned(), number);
            }
            self.last = Some((joined.to_owned(), number));
        }
        number
    }

    #[inline(never)]
    fn enter<S: Store>(&mut self, store: &mut S, text: String) -> KeyNumber {
        let name = KeyName(text).encode(self.fingerprint);
        while self.read < self.most {
            let number = KeyNumber(self.read);
            let key = format!("{}{}", self.prefix, number.0);
            let entry = match store.get(&key) {
                Some((bytes, _)) => bytes,
                None if store.swap(&key, &name, Expected::Absent).is_ok() => name.clone(),
                // Somebody else entered another one at this moment: read it.
                None => match store.get(&key) {
                    Some((bytes, _)) => bytes,
                    None => break,
                },
            };
            self.read += 1;
            // Foreign bytes keep their number but are found by nobody.
            let text = KeyName::decode(&entry, self.fingerprint).map_or_else(String::new, |name| name.0);
            if !text.is_empty() && !self.by_text.contains_key(text.as_bytes()) {
                self.by_text.insert(text.clone().into_bytes(), number);
            }
            self.texts.push(text);
            if entry == name {
                return number;
            }
        }
        KeyNumber(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use core::num::NonZeroU16;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn scope(most: u16) -> Scope {
        Scope {
            by: vec![Dimension::Cluster, Dimension::Header("x-tenant".into())],
            max_keys: NonZeroU16::new(most).unwrap(),
        }
    }

    #[test]
    fn plain_values_show_whole_and_others_stay_distinct() {
        let scope = scope(4);
        assert_eq!(text(&scope, &["orders", "a"]), "cluster=orders,x-tenant=a");
        let quoted = text(&scope, &[&b"orders"[..], b"a\"b"]);
        assert!(quoted.starts_with("cluster=orders,x-tenant=a_b~"), "{quoted}");
        assert_ne!(quoted, text(&scope, &["orders", "a'b"]));
        assert!(text(&scope, &[vec![0xff; 9000], vec![]]).len() < 200);
    }

    #[test]
    fn all_workers_find_the_same_number_for_the_same_values() {
        let store = MemoryStore::default();
        let (mut one, mut two) = (KeyTable::new("p", 7, &scope(4)), KeyTable::new("p", 7, &scope(4)));
        let scope = scope(4);
        let a = one.number(&mut store.clone(), &scope, &["orders", "a"]);
        let b = two.number(&mut store.clone(), &scope, &["orders", "b"]);
        assert_ne!(a, b);
        assert_eq!(two.number(&mut store.clone(), &scope, &["orders", "a"]), a);
        assert_eq!(one.number(&mut store.clone(), &scope, &["orders", "b"]), b);
        assert_eq!(one.text(b), "cluster=orders,x-tenant=b");
    }

    #[test]
    fn beyond_the_limit_values_share_the_overflow_key_and_cost_no_calls() {
        let mut store = MemoryStore::default();
        let scope = scope(2);
        let mut table = KeyTable::new("p", 7, &scope);
        for tenant in ["a", "b"] {
            assert!(table.number(&mut store, &scope, &["orders", tenant]).0 < 2);
        }
        let overflow = table.number(&mut store, &scope, &["orders", "c"]);
        assert_eq!(table.text(overflow), OVERFLOW);
        let reads = store.reads();
        assert_eq!(table.number(&mut store, &scope, &["orders", "d"]), overflow);
        assert_eq!(store.reads(), reads);
    }
}
