//! Shared data with compare-and-swap, as Envoy has it. Source: proxy-wasm-cpp-host, `shared_data.cc`.

use std::collections::BTreeMap;

use crate::status;

/// The bytes of one `vm_id`.
#[derive(Debug)]
pub(crate) struct SharedData {
    entries: BTreeMap<String, (Vec<u8>, u32)>,
    next: u32,
}

impl SharedData {
    pub(crate) fn new() -> Self {
        SharedData { entries: BTreeMap::new(), next: 1 }
    }

    /// The bytes of a key and their version.
    pub(crate) fn get(&self, key: &str) -> Option<(&[u8], u32)> {
        self.entries.get(key).map(|(bytes, version)| (bytes.as_slice(), *version))
    }

    /// Writes a key. 0 is unconditional; a key that is not there takes any token; versions come from one counter for
    /// all keys, which never is 0.
    pub(crate) fn set(&mut self, key: &str, bytes: Vec<u8>, token: u32) -> u32 {
        if self.entries.get(key).is_some_and(|(_, version)| token != 0 && token != *version) {
            return status::CAS_MISMATCH;
        }
        self.entries.insert(key.to_owned(), (bytes, self.next));
        self.next = self.next.wrapping_add(1).max(1);
        status::OK
    }

    /// How many keys there are, and how many bytes in their names and values.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().map(|(key, (bytes, _))| key.len() + bytes.len()).sum())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_mean_what_they_mean_in_envoy() {
        let mut data = SharedData::new();
        assert_eq!(data.set("a", vec![1], u32::MAX), status::OK, "a missing key takes any token");
        assert_eq!(data.set("a", vec![2], u32::MAX), status::CAS_MISMATCH, "one that is there does not");
        let (_, version) = data.get("a").unwrap();
        assert_eq!(data.set("b", vec![], 0), status::OK);
        assert_eq!(data.set("a", vec![3], version), status::OK, "a write of another key changes no version");
        assert_eq!(data.set("a", vec![4], version), status::CAS_MISMATCH, "its own does");
        assert_eq!(data.set("a", vec![5], 0), status::OK, "0 is unconditional");
        assert_eq!(data.get("a"), Some((&[5][..], 4)), "all keys count with one counter");
        assert_eq!(data.size(), (2, 3), "two keys, two letters and a byte");
    }
}
