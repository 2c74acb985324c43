//! "Did you mean": the known word nearest to a misspelt one.

/// Longer words have no near miss; no known word is as long.
const MAX_LEN: usize = 40;

/// The known word within two edits of `word`, the nearest first. Case, `_` and `-` do not count, so that
/// `failureRate` and `failure-rate` find `failure_rate`. Of a short word at least a third must be right.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_LEN {
        return None;
    }
    let word = plain(word);
    known
        .iter()
        .map(|candidate| (strsim::levenshtein(&word, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> String {
    word.chars().filter(|char| !matches!(char, '_' | '-')).map(|char| char.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn near_misses_and_other_spellings_are_found() {
        let known = ["failure_rate", "slow_rate", "honor_retry_after", "on"];
        assert_eq!(nearest("failure_rte", &known), Some("failure_rate"));
        assert_eq!(nearest("failureRate", &known), Some("failure_rate"));
        assert_eq!(nearest("honor-retry-after", &known), Some("honor_retry_after"));
        assert_eq!(nearest("xy", &known), None, "two edits make any word of two letters");
        assert_eq!(nearest("timeout", &known), None);
        assert_eq!(nearest(&"a".repeat(1000), &known), None);
    }
}
