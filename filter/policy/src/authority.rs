//! What an `:authority` header may be.

use fluent_uri::UriRef;
use fluent_uri::component::Host;

/// The longest, in bytes. Source: RFC 3986, section 3.2.2, of names that are looked up.
pub const MAX_LEN: usize = 255;

/// Whether a text is a host, with a port or without: a name, or an address (an IPv6 address in brackets). A user before the host is
/// none of it. Source: RFC 3986, section 3.2; RFC 9110, section 7.2; RFC 9113, section 8.3.1.
pub fn is_valid(text: &str) -> bool {
    if text.len() > MAX_LEN {
        return false;
    }
    let reference = format!("//{text}");
    let Ok(reference) = UriRef::parse(reference.as_str()) else { return false };
    // There is nothing behind it.
    let Some(authority) = reference.authority().filter(|authority| authority.as_str() == text) else { return false };
    let is_host = match authority.host_parsed() {
        Host::RegName(name) => !name.is_empty(),
        Host::IpvFuture { .. } => false,
        _ => true,
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host && !authority.has_userinfo() && authority.port().is_none_or(|port| is_port(port.as_str()))
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
