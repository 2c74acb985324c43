//! Header maps: names and values are bytes.

/// Headers or trailers in the order they were added; names in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(Vec<u8>, Vec<u8>)>);

impl Headers {
    /// The first value of `name`.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.0.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    pub(crate) fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Replaces all values of `name`.
    pub(crate) fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref().to_ascii_lowercase();
        let value = value.as_ref().to_vec();
        match self.0.iter().position(|(each, _)| *each == name) {
            None => self.0.push((name, value)),
            Some(first) => {
                self.0[first].1 = value;
                let mut at = 0;
                self.0.retain(|(each, _)| {
                    at += 1;
                    at - 1 == first || *each != name
                });
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(each, _)| !each.eq_ignore_ascii_case(name));
    }

    /// As the ABI lays them out; no bytes at all when there are none. Source: proxy-wasm-cpp-host, `pairs_util.cc`.
    pub(crate) fn serialize(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(256);
        let size = |len: usize| u32::try_from(len).unwrap().to_le_bytes();
        bytes.extend_from_slice(&size(self.0.len()));
        for (name, value) in &self.0 {
            bytes.extend_from_slice(&size(name.len()));
            bytes.extend_from_slice(&size(value.len()));
        }
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
        bytes
    }

    /// Reads what a module laid out; bytes that are not so read as no headers, as Envoy reads them.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Headers::try_parse(bytes).unwrap_or_default()
    }

    fn try_parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let word = bytes.get(at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_le_bytes(*word)).ok()
        };
        let count = number(0)?;
        let mut text = 4 + count.checked_mul(8)?;
        let mut headers = Headers::default();
        for pair in 0..count {
            let (name_size, value_size) = (number(4 + pair * 8)?, number(8 + pair * 8)?);
            let (name_end, value_at) = (text + name_size, text + name_size + 1);
            headers.add(bytes.get(text..name_end)?, bytes.get(value_at..value_at + value_size)?);
            text = value_at + value_size + 1;
        }
        Some(headers)
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.add(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_out_is_read() {
        let headers: Headers =
            [(&b":status"[..], &b"200"[..]), (b"x-bytes", b"\xff\xfe"), (b"x-empty", b"")].into_iter().collect();
        assert_eq!(Headers::parse(&headers.serialize()), headers);
        assert_eq!(Headers::parse(b"\xff\xff\xff\xff"), Headers::default(), "nonsense is nothing");
    }

    #[test]
    fn setting_replaces_every_line() {
        let mut headers: Headers = [("a", "1"), ("b", "2"), ("A", "3")].into_iter().collect();
        headers.set("a", "4");
        assert_eq!(headers, [("a", "4"), ("b", "2")].into_iter().collect());
    }
}
