//! `Vary`: by which headers of the request a host chooses its answer. Source: RFC 9110, section 12.5.5; RFC 9111, section 4.1.

use super::cache_control::is_token;
use crate::http::headers;

/// The longest list of names, in bytes.
pub const LONGEST: usize = 256;

/// The longest values of a request by which answers are told apart, in bytes.
const LONGEST_VALUES: usize = 4096;

/// The names of headers: in lower case, in their order, each once, with a comma after each. Empty where an answer does not vary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Vary(String);

impl Vary {
    /// The names in the lines of a `vary`; `None` where the answer is for one request alone (`*`), or they are malformed or too many.
    pub fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut names = Vec::new();
        for line in lines {
            if line.len() > LONGEST {
                return None;
            }
            for name in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
                let is_name = name != b"*" && name.iter().all(|byte| is_token(*byte));
                names.push(is_name.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())?);
            }
            if names.len() > LONGEST {
                return None;
            }
        }
        names.sort_unstable();
        names.dedup();
        let list: String = names.iter().flat_map(|name| [name, ","]).collect();
        (list.len() <= LONGEST).then_some(Vary(list))
    }

    /// The same list as it was stored; `None` where it is none.
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        Vary::read([bytes].into_iter()).filter(|vary| vary.as_bytes() == bytes)
    }

    /// As bytes, to be stored.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether it names a header.
    pub fn names(&self, header: &str) -> bool {
        self.0.split_terminator(',').any(|name| name == header)
    }

    /// What a request has of the headers that are named, such that different values are different bytes. `request` are its headers as
    /// the host serializes them. `None` where that is too long.
    pub fn values(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut values = Vec::new();
        for name in self.0.split_terminator(',') {
            let lines = headers::read(request).filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
            let mut count = 0_u32;
            let at = values.len();
            for (_, value) in lines {
                let value = value.trim_ascii();
                count = count.saturating_add(1);
                values.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
                values.extend_from_slice(value);
                if values.len() > LONGEST_VALUES {
                    return None;
                }
            }
            values.splice(at..at, count.to_le_bytes());
        }
        (values.len() <= LONGEST_VALUES).then_some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(lines: &[&[u8]]) -> Option<Vary> {
        Vary::read(lines.iter().copied())
    }

    fn request(pairs: &[(&str, &str)]) -> Vec<u8> {
        let owned: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        headers::write(&owned)
    }

    #[test]
    fn names_have_one_form_however_they_are_written() {
        let one = read(&[b"Accept-Encoding, X-Tenant"]).unwrap();
        assert_eq!(one.as_bytes(), b"accept-encoding,x-tenant,");
        assert_eq!(read(&[b"x-tenant", b",accept-encoding , X-TENANT"]), Some(one.clone()));
        assert_eq!(Vary::stored(one.as_bytes()), Some(one.clone()));
        assert!(one.names("x-tenant") && !one.names("x") && !one.names(""));
        assert_eq!(read(&[]), Some(Vary::default()));
        assert!(!Vary::default().names(""));
    }

    #[test]
    fn what_is_for_one_request_alone_malformed_or_too_long_is_nothing() {
        let long = vec![b'a'; 10 * 1024 * 1024];
        let many: Vec<&[u8]> = core::iter::repeat_n(&b"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p"[..], 1000).collect();
        for lines in [&[&b"*"[..]][..], &[b"a, *"], &[b"a b"], &[b"\xff"], &[&long], &many] {
            assert_eq!(read(lines), None);
        }
        for stored in [&b"b,a,"[..], b"A,", b"a", b"\xff"] {
            assert_eq!(Vary::stored(stored), None, "nobody has stored that");
        }
    }

    #[test]
    fn different_values_are_different_bytes() {
        let vary = read(&[b"a, b"]).unwrap();
        let all = [
            request(&[]),
            request(&[("a", "")]),
            request(&[("b", "")]),
            request(&[("a", "1")]),
            request(&[("b", "1")]),
            request(&[("a", "1"), ("b", "2")]),
            request(&[("a", "1"), ("a", "2")]),
            request(&[("a", "1, 2")]),
            request(&[("a", "12")]),
        ];
        for (index, one) in all.iter().enumerate() {
            for (other_index, other) in all.iter().enumerate() {
                assert_eq!(vary.values(one) == vary.values(other), index == other_index, "{index} {other_index}");
            }
        }
        let same = request(&[("c", "3"), ("A", " 1 ")]);
        assert_eq!(vary.values(&same), vary.values(&request(&[("a", "1")])), "others do not matter");
        assert_eq!(vary.values(&request(&[("a", &"x".repeat(5000))])), None);
    }
}
