//! Package URLs, by the [specification](https://github.com/package-url/purl-spec).

/// `pkg:KIND/NAME@VERSION`, with what a name or a version may not hold percent-encoded.
pub(crate) fn purl(kind: &str, name: &str, version: &str) -> String {
    format!("pkg:{kind}/{}@{}", encoded(name), encoded(version))
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_with_build_metadata_is_encoded() {
        assert_eq!(purl("cargo", "serde_json", "1.0.154"), "pkg:cargo/serde_json@1.0.154");
        assert_eq!(purl("cargo", "toml", "1.2.2+spec-1.1.0"), "pkg:cargo/toml@1.2.2%2Bspec-1.1.0");
    }
}
