//! The same request again, in another cluster: what is sent there, and what is made of the answer.

use core::str::from_utf8;

use holdfast_policy::document::OutcomeRules;

use super::reply::{Reply, Unserved};
use crate::base::time::Timestamp;
use crate::http::outcome::{Answer, Verdict};
use crate::http::response::ResponseHead;
use crate::http::{headers, hop};

/// Headers by which Envoy's router is told what to do with a request, or says what it has done, and those of ours begin so. Source: Envoy,
/// "Router", HTTP headers.
const OF_THE_ROUTER: [&str; 10] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-hedge-",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-retr",
    "x-envoy-upstream-",
    "x-holdfast-",
    ":protocol",
];

/// The headers of a request as they are sent again, from those that have come, as the host serializes them.
///
/// # Errors
/// They are no text, or ask for more than an answer.
pub fn headers_again(serialized: &[u8]) -> Result<Vec<(String, String)>, Unserved> {
    let connection = hop::connection(serialized);
    let mut again = Vec::new();
    for (name, value) in headers::read(serialized) {
        let name = from_utf8(name).map_err(|_| Unserved::Kind)?;
        if name == "upgrade" {
            return Err(Unserved::Kind);
        }
        // All of it is there, so no host is to be asked whether it wants the body.
        let is_ours = name == "expect" || OF_THE_ROUTER.iter().any(|start| name.starts_with(start));
        if is_ours || hop::is_of_one(name, &connection) {
            continue;
        }
        again.push((name.to_owned(), from_utf8(value).map_err(|_| Unserved::Kind)?.to_owned()));
    }
    Ok(again)
}

/// What is made of an answer that has these headers, as the host serializes them, and this body.
///
/// # Errors
/// None has come, or one that the policy takes for a failure.
pub fn answer(serialized: &[u8], body: Vec<u8>, rules: &OutcomeRules, now: Timestamp) -> Result<Reply, Unserved> {
    let head = ResponseHead::read(serialized, now, false, rules);
    if head.status == 0 {
        return Err(Unserved::NoAnswer);
    }
    if head.by_headers.verdict(rules, Answer::Http(head.status)) == Verdict::Failure {
        return Err(Unserved::Failed);
    }
    let connection = hop::connection(serialized);
    let mut kept = Vec::new();
    for (name, value) in headers::read(serialized) {
        let name = String::from_utf8_lossy(name);
        let is_ours = name.starts_with("x-holdfast-");
        let is_the_proxys = name.starts_with(':') || name == "server" || name == "x-envoy-upstream-service-time";
        if !is_ours && !is_the_proxys && !hop::is_of_one(&name, &connection) {
            kept.push((name.into_owned(), String::from_utf8_lossy(value).into_owned()));
        }
    }
    Ok(Reply { status: head.status, headers: kept, body, grpc: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn written(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        let owned: Vec<(String, Vec<u8>)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        headers::write(&owned)
    }

    #[test]
    fn what_belongs_to_a_connection_or_tells_the_router_is_not_sent_again() {
        let come = written(&[
            (":method", b"PUT"),
            (":path", b"/a?b=c"),
            (":authority", b"shop"),
            ("connection", b"close, X-Hop"),
            ("connection", b"x-second"),
            ("x-hop", b"1"),
            ("x-second", b"1"),
            ("expect", b"100-continue"),
            ("te", b"trailers"),
            ("content-length", b"7"),
            ("x-envoy-retry-on", b"5xx"),
            ("x-envoy-upstream-rq-timeout-ms", b"9"),
            ("x-envoy-attempt-count", b"1"),
            ("x-holdfast-hosts", b"10.0.0.1:80"),
            ("x-envoy-external-address", b"192.0.2.1"),
            ("cookie", b"a=1"),
        ]);
        let again = headers_again(&come).unwrap();
        let names: Vec<&str> = again.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [":method", ":path", ":authority", "x-envoy-external-address", "cookie"]);
        for wrong in [("upgrade", &b"websocket"[..]), ("x-name", b"\xff")] {
            assert_eq!(headers_again(&written(&[wrong])), Err(Unserved::Kind));
        }
    }

    #[test]
    fn an_answer_is_good_unless_the_policy_takes_it_for_a_failure() {
        let text = br#"{"policies":[{"name":"a","outcome":{"failure":{"header":{"x-bad":"1"}}},"breaker":{}}]}"#;
        let document = config::parse(text).unwrap();
        let rules = &document.policies.first().unwrap().outcome;
        let read = |pairs: &[(&str, &[u8])]| answer(&written(pairs), b"body".to_vec(), rules, Timestamp::ZERO);
        let good = read(&[
            (":status", b"404"),
            ("set-cookie", b"a=1"),
            ("set-cookie", b"b=2"),
            ("connection", b"x-hop"),
            ("x-hop", b"1"),
            ("server", b"other"),
            ("x-holdfast-fallback", b"forged"),
        ]);
        let good = good.unwrap();
        let cookie = |value: &str| ("set-cookie".to_owned(), value.to_owned());
        assert_eq!((good.status, good.headers, good.body), (404, vec![cookie("a=1"), cookie("b=2")], b"body".to_vec()));
        assert_eq!(read(&[(":status", b"503")]), Err(Unserved::Failed));
        assert_eq!(read(&[(":status", b"200"), ("x-bad", b"1")]), Err(Unserved::Failed));
        assert_eq!(answer(&[], Vec::new(), rules, Timestamp::ZERO), Err(Unserved::NoAnswer));
    }
}
