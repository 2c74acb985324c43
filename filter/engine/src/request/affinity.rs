//! What of a request its host is chosen by: `balance.hash`.

use holdfast_policy::document::{Balance, HashBy, Outlier};

use super::facts::Facts;
use crate::base::fingerprint::of_text;
use crate::host::Host;
use crate::http::matching::comparable;
use crate::http::request::Field;

/// The hash of the first of these that the request has; `None` if it has none, or the balance looks at nothing.
pub fn hash(rules: &Outlier, facts: &Facts<'_>, host: &dyn Host) -> Option<u64> {
    let Balance::Hash(by) = rules.acting_balance() else { return None };
    by.iter().find_map(|by| match by {
        HashBy::Header(name) => {
            facts.get(Field::Header(name)).filter(|value| !value.is_empty()).map(|value| of_text(&value))
        }
        HashBy::Cookie(name) => {
            let cookies = facts.get(Field::Header("cookie"))?;
            cookie(&cookies, name).filter(|value| !value.is_empty()).map(of_text)
        }
        HashBy::Path => facts.get(Field::Path).map(|path| of_text(&comparable(Field::Path, path))),
        HashBy::SourceIp => host.property("source\0address").map(|address| of_text(without_port(&address))),
    })
}

/// The value of the cookie of this name. Source: RFC 6265, section 4.2.1.
fn cookie<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let mut named = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    named.next()
}

/// An address as Envoy writes it, `10.0.0.1:1234` or `[2001:db8::1]:1234`, without its port. Others stay whole.
fn without_port(address: &[u8]) -> &[u8] {
    match address.iter().rposition(|byte| *byte == b':').and_then(|at| address.split_at_checked(at)) {
        Some((host, _)) if !host.is_empty() => host,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Headers;
    use crate::memory_host::MemoryHost;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(by: &str, host: &MemoryHost) -> Option<u64> {
        let text = format!(
            r#"{{"policies":[{{"name":"p","outlier":{{"balance":{{"hash":{by}}},"hosts":["10.0.0.1:80"]}}}}]}}"#
        );
        let rules = config::parse(text.as_bytes()).unwrap().policies.remove(0).outlier.unwrap();
        hash(&rules, &Facts::new(host), host)
    }

    fn request(headers: &[(&str, &str)]) -> MemoryHost {
        let host = MemoryHost::default();
        host.put_headers(Headers::Request, headers);
        host.put_property("source\0address", Some(b"192.0.2.7:4711"));
        host
    }

    #[test]
    fn each_part_is_read_as_it_is_documented() {
        let host = request(&[(":path", "/a/b?c=d"), ("x-user", "ann"), ("cookie", "a=1; sid=ann;b=2")]);
        let ann = Some(of_text(b"ann"));
        assert_eq!(of(r#"{"header":"X-User"}"#, &host), ann);
        assert_eq!(of(r#"{"cookie":"sid"}"#, &host), ann);
        assert_eq!(of(r#""path""#, &host), Some(of_text(b"/a/b")));
        assert_eq!(of(r#""source_ip""#, &host), Some(of_text(b"192.0.2.7")));
        assert_eq!(of(r#"{"cookie":"id"}"#, &host), None, "the end of another name");
        assert_eq!(of(r#"{"cookie":"Sid"}"#, &host), None, "case counts in cookies");
    }

    #[test]
    fn the_cookie_counts_where_the_header_is_missing() {
        let by = r#"{"header":"x-user","cookie":"sid"}"#;
        let (ann, bob) = (Some(of_text(b"ann")), Some(of_text(b"bob")));
        assert_eq!(of(by, &request(&[("x-user", "ann"), ("cookie", "sid=bob")])), ann);
        assert_eq!(of(by, &request(&[("x-user", ""), ("cookie", "sid=bob")])), bob);
        assert_eq!(of(by, &request(&[("cookie", "sid=")])), None);
        assert_eq!(of(by, &request(&[])), None);
    }

    #[test]
    fn an_address_is_told_from_its_port() {
        assert_eq!(without_port(b"[2001:db8::1]:80"), b"[2001:db8::1]");
        assert_eq!(without_port(b"@unix"), b"@unix");
        assert_eq!(without_port(b":80"), b":80");
        assert_eq!(without_port(b""), b"");
    }
}
