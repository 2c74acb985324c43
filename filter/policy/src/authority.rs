//! What an `:authority` header may be.

use core::net::Ipv6Addr;

/// The longest, in bytes. Source: RFC 3986, section 3.2.2, of names that are looked up.
pub const MAX_LEN: usize = 255;

/// Whether a text is a host, with a port or without: a name, or an address (an IPv6 address in brackets). A user before the host is
/// none of it. Source: RFC 3986, section 3.2; RFC 9110, section 7.2; RFC 9113, section 8.3.1.
pub fn is_valid(text: &str) -> bool {
    if text.len() > MAX_LEN {
        return false;
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            return address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || is_after_host(rest));
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    is_name(host.as_bytes()) && (port.is_empty() || is_after_host(port))
}

/// A colon and a port.
fn is_after_host(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// `reg-name`, which holds IPv4 addresses too, and is not empty here.
fn is_name(mut bytes: &[u8]) -> bool {
    let is_empty = bytes.is_empty();
    while let [byte, later @ ..] = bytes {
        bytes = match (byte, later) {
            (b'%', [a, b, rest @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            (byte, _) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => later,
            _ => return false,
        };
    }
    !is_empty
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_and_addresses_with_and_without_a_port_are_valid() {
        for text in [
            "orders",
            "orders:8080",
            "orders.default.svc.cluster.local",
            "outbound_.8080_._.orders.default.svc.cluster.local",
            "*.example.com",
            "10.0.0.1",
            "10.0.0.1:65535",
            "[2001:db8::1]",
            "[::1]:8080",
            "a%2Fb",
            "~!$&'()*+,;=",
        ] {
            assert!(is_valid(text), "{text}");
        }
        assert!(is_valid(&"a".repeat(MAX_LEN)));
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "",
            ":8080",
            "orders:",
            "orders:http",
            "orders:0",
            "orders:+1",
            "orders:65536",
            "orders:80:80",
            "outbound|8080||orders.default.svc.cluster.local",
            "httproute/default/orders/rule/0",
            "user@orders",
            "a b",
            "a%2",
            "a%zz",
            "a\r\nb",
            "é",
            "::1",
            "[::1",
            "[]",
            "[orders]",
            "[::1]8080",
            "[::1]:",
            "[::1%251]:80",
            &format!("[::1]:{}80", "0".repeat(MAX_LEN)),
        ] {
            assert!(!is_valid(text), "{text}");
        }
        assert!(!is_valid(&"a".repeat(MAX_LEN + 1)));
    }
}
