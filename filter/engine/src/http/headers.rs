//! Header maps as the proxy-wasm ABI lays them out: the number of pairs; for each pair the sizes of name and value; for
//! each pair the name, a zero byte, the value, a zero byte. Numbers are 32-bit little-endian.
//! Source: proxy-wasm ABI 0.2.1, "serialized map".

/// Names and values in `bytes`. Bytes that are not laid out so end the sequence.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let number = move |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let mut left = number(0).unwrap_or(0);
    let mut sizes_at = 4_usize;
    let mut text_at = left.saturating_mul(8).saturating_add(4);
    core::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let (name_size, value_size) = (number(sizes_at)?, number(sizes_at.checked_add(4)?)?);
        sizes_at = sizes_at.checked_add(8)?;
        let name_end = text_at.checked_add(name_size)?;
        let value_at = name_end.checked_add(1)?;
        let value_end = value_at.checked_add(value_size)?;
        let pair = (bytes.get(text_at..name_end)?, bytes.get(value_at..value_end)?);
        text_at = value_end.checked_add(1)?;
        Some(pair)
    })
}

/// Lays out names and values.
pub fn write<V: AsRef<[u8]>>(pairs: &[(String, V)]) -> Vec<u8> {
    let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&size(pairs.len()));
    for (name, value) in pairs {
        bytes.extend_from_slice(&size(name.len()));
        bytes.extend_from_slice(&size(value.as_ref().len()));
    }
    for (name, value) in pairs {
        for text in [name.as_bytes(), value.as_ref()] {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_was_written_is_read() {
        let pairs = [(":status".to_owned(), "200".to_owned()), ("x-empty".to_owned(), String::new())];
        let bytes = write(&pairs);
        let read: Vec<_> = read(&bytes).collect();
        assert_eq!(read, [(&b":status"[..], &b"200"[..]), (b"x-empty", b"")]);
    }

    #[test]
    fn bytes_that_end_early_end_the_sequence() {
        let bytes = write(&[("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())]);
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).count() <= 2);
        }
        assert_eq!(read(&[0xff; 64]).count(), 0);
        assert_eq!(read(&[]).count(), 0);
    }
}
