//! Whether a client has an answer already. Source: RFC 9110, sections 13.1 and 13.2; RFC 9111, section 4.3.2.

use super::asked::AskedFor;
use crate::http::date;

/// Whether the client says that it has the answer with these headers. A condition that is not understood does not hold.
pub fn has_it(asked: &AskedFor, headers: &[(String, String)]) -> bool {
    let of_answer = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_bytes());
    if asked.has("if-none-match") {
        let own = of_answer("etag").map(opaque);
        let mut tags = asked.lines("if-none-match").flat_map(tags);
        return tags.any(|tag| tag == b"*" || own.is_some_and(|own| own == opaque(tag)));
    }
    let mut since = asked.lines("if-modified-since");
    match (since.next().and_then(date::parse), since.next(), of_answer("last-modified").and_then(date::parse)) {
        (Some(since), None, Some(modified)) => modified <= since,
        _ => false,
    }
}

/// The tag without its mark of weakness, which does not count here. Source: RFC 9110, section 8.8.3.2.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The tags of a list, in which a quoted one may have commas.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    list.split(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn has(request: &[(&str, &str)], answer: &[(&str, &str)]) -> bool {
        let own = [(":method", "GET"), (":authority", "a"), (":path", "/")];
        let owned: Vec<_> = own.iter().chain(request).map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let asked = AskedFor::read(&headers::write(&owned), || b"c", true).unwrap();
        let answer: Vec<_> = answer.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        has_it(&asked, &answer)
    }

    #[test]
    fn a_tag_is_compared_without_its_weakness() {
        let etag = [("etag", "\"a,b\"")];
        for list in ["\"a,b\"", "W/\"a,b\"", "\"x\", \"a,b\"", "*", "\"x\" , W/\"a,b\","] {
            assert!(has(&[("if-none-match", list)], &etag), "{list}");
        }
        for list in ["\"a\"", "a,b", "", "\"a,b", "\"A,B\""] {
            assert!(!has(&[("if-none-match", list)], &etag), "{list}");
        }
        assert!(has(&[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")], &etag), "several lines");
        assert!(!has(&[("if-none-match", "\"a\"")], &[]), "an answer without a tag");
    }

    #[test]
    fn a_date_counts_where_no_tag_is_given() {
        let modified = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"a\"")];
        let since = |date: &'static str| ("if-modified-since", date);
        assert!(has(&[since("Sun, 06 Nov 1994 08:49:37 GMT")], &modified));
        assert!(has(&[since("Sun, 06 Nov 1994 08:49:38 GMT")], &modified));
        assert!(!has(&[since("Sun, 06 Nov 1994 08:49:36 GMT")], &modified));
        assert!(!has(&[since("soon")], &modified));
        assert!(!has(&[since("Sun, 06 Nov 1994 08:49:38 GMT"), ("if-none-match", "\"b\"")], &modified));
        assert!(!has(&[since("Sun, 06 Nov 1994 08:49:38 GMT")], &[]));
        assert!(!has(&[], &modified));
    }
}
