//! SHA-256 as hexadecimal digits, and an identifier made of it.

use sha2::{Digest, Sha256};

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A UUID of the bytes' hash: version 8 of [RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.8), which leaves all but
/// the version and the variant to who makes it.
pub(crate) fn uuid(bytes: &[u8]) -> String {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(Sha256::digest(bytes)) {
        *to = from;
    }
    let mut id = u128::from_be_bytes(id);
    id = (id & !(0xf << 76)) | (8 << 76);
    id = (id & !(0b11 << 62)) | (0b10 << 62);
    let digits = format!("{id:032x}");
    let parts: Vec<&str> = [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().filter_map(|at| digits.get(at)).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_version_and_variant_and_follows_the_content() {
        let id = uuid(b"one");
        assert_eq!(id.len(), 36);
        assert_eq!(id.chars().nth(14), Some('8'));
        assert!(id.chars().nth(19).is_some_and(|digit| "89ab".contains(digit)), "{id}");
        assert_eq!(id, uuid(b"one"));
        assert_ne!(id, uuid(b"two"));
    }

    #[test]
    fn a_hash_is_the_one_that_everybody_gets() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
