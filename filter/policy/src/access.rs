//! What the access log says of a request: the filter state `wasm.holdfast`.

use crate::document::Reason;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It went on to the host.
    Admitted,
    /// It went on to the host as one of half-open's probes.
    Probe,
    /// It was rejected and got the plain rejection.
    Rejected(Reason),
    /// It was rejected, or its answer was replaced, and a static fallback served.
    Static(Reason),
}

/// The filter state: `policy=orders; key=cluster=orders; decision=fallback; reason=open; kind=static`. The decision is one
/// of `admitted`, `probe`, `rejected`, `fallback`.
pub fn line(policy: &str, key: &str, fate: Fate) -> String {
    let mut line = String::with_capacity(96);
    line.push_str("policy=");
    line.push_str(policy);
    line.push_str("; key=");
    line.push_str(key);
    line.push_str("; decision=");
    let (decision, reason) = match fate {
        Fate::Admitted => ("admitted", None),
        Fate::Probe => ("probe", None),
        Fate::Rejected(reason) => ("rejected", Some(reason)),
        Fate::Static(reason) => ("fallback", Some(reason)),
    };
    line.push_str(decision);
    if let Some(reason) = reason {
        line.push_str("; reason=");
        line.push_str(reason.name());
    }
    if matches!(fate, Fate::Static(_)) {
        line.push_str("; kind=static");
    }
    line
}

/// The property that becomes the filter state.
pub const PROPERTY: &str = "holdfast";

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_line_says_what_became_of_the_request() {
        assert_eq!(line("p", "all", Fate::Admitted), "policy=p; key=all; decision=admitted");
        assert_eq!(
            line("p", "cluster=c", Fate::Static(Reason::Timeout)),
            "policy=p; key=cluster=c; decision=fallback; reason=timeout; kind=static"
        );
    }
}
