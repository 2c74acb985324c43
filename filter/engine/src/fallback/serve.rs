//! The choice of a fallback by its reason.

use core::time::Duration;

use holdfast_policy::document::{FallbackKind, Mode, Policy, Reason, StaticResponse};

use super::reply::{
    Disposition, FALLBACK_HEADER, GrpcStatus, LocalReply, REJECT_HEADER, Reply, ReplyContext, UNAVAILABLE, http_status,
    retry_after_seconds,
};
use super::template::Values;
use crate::event::Event;
use crate::http::grpc::GrpcDialect;
use crate::http::outcome::{Answer, Outcome};
use crate::http::request::Field;
use crate::metric::Metric;

/// Serves a rejected request: with a fallback that names the reason, else with the plain rejection. `value` gives a
/// field of the request, if it has it.
pub fn serve_rejection(
    policy: &Policy,
    reason: Reason,
    retry_after: Duration,
    grpc: Option<GrpcDialect>,
    value: &mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
    events: &mut Vec<Event>,
) -> LocalReply {
    let context = ReplyContext { reason, retry_after: Some(retry_after), grpc };
    serve(policy, &[reason], context, value, events).unwrap_or_else(|| LocalReply {
        reply: plain_rejection(policy, &context),
        disposition: Disposition::Rejected(reason),
    })
}

/// Serves in place of the host's answer, if that was a failure or a time-out and a fallback is for it. `retries` is the
/// number of attempts after the first, `served` says that the request has counted as one that would have had a fallback.
#[allow(clippy::too_many_arguments)] // All of them are facts of one answer.
pub fn serve_failure(
    policy: &Policy,
    answer: Answer,
    outcome: &Outcome,
    retries: u32,
    served: bool,
    grpc: Option<GrpcDialect>,
    value: &mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
    events: &mut Vec<Event>,
) -> Option<LocalReply> {
    let reasons: &[Reason] = match (answer, outcome.failed(), retries > 0) {
        (Answer::TimedOut, true, true) => &[Reason::Timeout, Reason::RetriesExhausted, Reason::Failure],
        (Answer::TimedOut, true, false) => &[Reason::Timeout, Reason::Failure],
        (Answer::TimedOut, false, _) => &[Reason::Timeout],
        (Answer::NoHost, true, true) => &[Reason::NoHost, Reason::RetriesExhausted, Reason::Failure],
        (Answer::NoHost, true, false) => &[Reason::NoHost, Reason::Failure],
        (Answer::NoHost, false, _) => &[Reason::NoHost],
        (_, true, true) => &[Reason::RetriesExhausted, Reason::Failure],
        (_, true, false) => &[Reason::Failure],
        (_, false, _) => return None,
    };
    let reason = *reasons.first()?;
    if served && policy.mode == Mode::Shadow {
        return None;
    }
    serve(policy, reasons, ReplyContext { reason, retry_after: None, grpc }, value, events)
}

/// Serves with the first fallback that names one of `reasons`, unless the policy only pretends.
fn serve(
    policy: &Policy,
    reasons: &[Reason],
    context: ReplyContext,
    value: &mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
    events: &mut Vec<Event>,
) -> Option<LocalReply> {
    let (entry, reason) = policy.fallback_for(reasons)?;
    let FallbackKind::Static(response) = &entry.kind;
    match policy.mode {
        Mode::Enforce => {
            events.push(Event::Count(Metric::FallbackStatic));
            let reply = static_reply(policy, response, &ReplyContext { reason, ..context }, value);
            Some(LocalReply { reply, disposition: Disposition::Static(reason) })
        }
        Mode::Shadow => {
            events.push(Event::Count(Metric::WouldFallbackStatic));
            None
        }
        Mode::Off => None,
    }
}

/// The reply to a request that was rejected and has no fallback: 503, or UNAVAILABLE.
fn plain_rejection(policy: &Policy, context: &ReplyContext) -> Reply {
    let reason = context.reason.name();
    let mut headers = vec![(REJECT_HEADER.to_owned(), format!("{reason}; policy={}", policy.name))];
    push_retry_after(&mut headers, context);
    push_no_store(&mut headers);
    Reply {
        status: 503,
        headers,
        body: if context.grpc.is_some() {
            format!("rejected by policy {}: {reason}", policy.name).into_bytes()
        } else {
            Vec::new()
        },
        grpc: context.grpc.map(|dialect| GrpcStatus { dialect, code: UNAVAILABLE }),
    }
}

/// The reply of a static fallback. `value` gives a field of the request, if it has it.
fn static_reply(
    policy: &Policy,
    response: &StaticResponse,
    context: &ReplyContext,
    value: &mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
) -> Reply {
    let reason = context.reason.name();
    let mut values = Values { policy, context, field: value };
    let mut headers = values.headers(response);
    if context.grpc.is_some() {
        // A body and its type are of no use to a gRPC client; the other headers become metadata.
        headers.retain(|(name, _)| name != "content-type");
    }
    headers.push((FALLBACK_HEADER.to_owned(), format!("static; reason={reason}; policy={}", policy.name)));
    push_retry_after(&mut headers, context);
    push_no_store(&mut headers);
    if let Some(dialect) = context.grpc {
        return Reply {
            status: http_status(response.grpc_status),
            headers,
            body: format!("fallback of policy {}: {reason}", policy.name).into_bytes(),
            grpc: Some(GrpcStatus { dialect, code: response.grpc_status }),
        };
    }
    Reply { status: response.status, headers, body: values.body(response), grpc: None }
}

fn push_retry_after(headers: &mut Vec<(String, String)>, context: &ReplyContext) {
    if let Some(left) = context.retry_after
        && !headers.iter().any(|(name, _)| name == "retry-after")
    {
        headers.push(("retry-after".to_owned(), retry_after_seconds(left).to_string()));
    }
}

/// No cache in front keeps what stands in for the service: it would serve that when the service is well again. A status such as
/// 200 or 404 may be kept without being asked for. Source: RFC 9111, section 4.2.2.
fn push_no_store(headers: &mut Vec<(String, String)>) {
    if !headers.iter().any(|(name, _)| name == "cache-control" || name == "expires") {
        headers.push(("cache-control".to_owned(), "no-store".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::kept_parts;
    use holdfast_policy::config;
    use holdfast_policy::document::TemplatePart;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn policy(fallback: &str) -> Policy {
        let text = format!(r#"{{"policies":[{{"name":"orders","breaker":{{}},"fallback":{fallback}}}]}}"#);
        config::parse(text.as_bytes()).unwrap().policies.remove(0)
    }

    fn open(grpc: bool) -> ReplyContext {
        let grpc = grpc.then_some(GrpcDialect::Grpc);
        ReplyContext { reason: Reason::Open, retry_after: Some(Duration::from_millis(30_001)), grpc }
    }

    fn reply(policy: &Policy, context: &ReplyContext, value: &[u8]) -> Reply {
        let (entry, _) = policy.fallback_for(&[context.reason]).unwrap();
        let FallbackKind::Static(response) = &entry.kind;
        static_reply(policy, response, context, &mut |_| Some(value.to_vec()))
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_first_entry_that_names_the_reason_serves() {
        let policy = policy(
            r#"[{"on":["timeout"],"respond":{"status":504}},
                {"on":["open","failure"],"respond":{"status":200,"body":{"items":[]}}}]"#,
        );
        let status = |reasons: &[Reason]| {
            policy.fallback_for(reasons).map(|(entry, reason)| {
                let FallbackKind::Static(response) = &entry.kind;
                (response.status, reason)
            })
        };
        assert_eq!(status(&[Reason::Open]), Some((200, Reason::Open)));
        assert_eq!(status(&[Reason::Timeout, Reason::Failure]), Some((504, Reason::Timeout)));
        assert_eq!(status(&[Reason::Concurrency]), None);
    }

    #[test]
    fn an_entry_for_failures_serves_a_time_out_too_and_says_so() {
        let policy = policy(r#"[{"on":["failure"],"respond":{"status":200}}]"#);
        assert_eq!(
            policy.fallback_for(&[Reason::Timeout, Reason::Failure]).map(|(_, reason)| reason),
            Some(Reason::Timeout)
        );
    }

    #[test]
    fn what_only_the_answer_tells_is_kept_of_the_request() {
        for (on, kept) in [
            ("open", &[][..]),
            ("failure", &[TemplatePart::Path]),
            ("timeout", &[TemplatePart::Path]),
            ("retries_exhausted", &[TemplatePart::Path]),
            ("no_host", &[TemplatePart::Path]),
        ] {
            let text = format!(
                r#"{{"policies":[{{"name":"orders","breaker":{{}},"retry":{{}},
                    "fallback":[{{"on":["{on}"],"respond":{{"status":200,"body":"${{path}} ${{path}}"}}}}]}}]}}"#
            );
            let policy = config::parse(text.as_bytes()).unwrap().policies.remove(0);
            assert_eq!(kept_parts(&policy), kept, "{on}");
            assert_eq!(policy.replaces_answers(), !kept.is_empty(), "{on}");
        }
    }

    #[test]
    fn what_headers_and_objects_insert_is_kept_too() {
        let policy = policy(
            r#"[{"on":["failure"],"respond":{"status":200,"headers":{"x-a":"${header.x-id} ${path}"},
                 "body":{"${header.x-key}":["${header.x-b}",{"a":"${path}"}]}}}]"#,
        );
        let header = |name: &str| TemplatePart::Header(name.to_owned());
        assert_eq!(kept_parts(&policy), [header("x-b"), TemplatePart::Path, header("x-id")], "a key is no template");
    }

    #[test]
    fn a_reply_says_what_it_is_and_when_to_come_back() {
        let policy = policy(r#"[{"on":["open"],"respond":{"status":200,"body":{"items":[]}}}]"#);
        let reply = reply(&policy, &open(false), b"");
        assert_eq!(reply.body, br#"{"items":[]}"#);
        assert_eq!(header(&reply, "content-type"), Some("application/json"));
        assert_eq!(header(&reply, FALLBACK_HEADER), Some("static; reason=open; policy=orders"));
        assert_eq!(header(&reply, "retry-after"), Some("31"), "30.001 s are not over after 30");
    }

    #[test]
    fn no_cache_keeps_a_reply_unless_the_document_says_so() {
        let with = |headers: &str| {
            let text = format!(r#"[{{"on":["open"],"respond":{{"status":200,"headers":{headers},"body":"x"}}}}]"#);
            reply(&policy(&text), &open(false), b"")
        };
        assert_eq!(header(&with("{}"), "cache-control"), Some("no-store"));
        let own = with(r#"{"cache-control":"max-age=5"}"#);
        assert_eq!(own.headers.iter().filter(|(name, _)| name == "cache-control").count(), 1);
        assert_eq!(header(&own, "cache-control"), Some("max-age=5"));
        assert_eq!(header(&with(r#"{"expires":"Sun, 09 Sep 2001 01:46:40 GMT"}"#), "cache-control"), None);
        for grpc in [false, true] {
            assert_eq!(header(&plain_rejection(&policy("[]"), &open(grpc)), "cache-control"), Some("no-store"));
        }
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_answer() {
        let policy =
            policy(r#"[{"on":["open"],"respond":{"status":200,"body":"x","grpc_status":"RESOURCE_EXHAUSTED"}}]"#);
        let reply = reply(&policy, &open(true), b"");
        assert_eq!(reply.grpc.map(|grpc| grpc.code), Some(8));
        assert_eq!(reply.status, 429, "for a client that a filter translates for");
        assert_eq!(header(&reply, "content-type"), None);
        assert_eq!(plain_rejection(&policy, &open(true)).grpc.map(|grpc| grpc.code), Some(14));
    }

    #[test]
    fn without_a_fallback_a_rejection_is_a_503_that_names_its_reason() {
        let policy = policy("[]");
        let reply = plain_rejection(&policy, &open(false));
        assert_eq!(reply.status, 503);
        assert_eq!(header(&reply, REJECT_HEADER), Some("open; policy=orders"));
        assert_eq!(header(&reply, "retry-after"), Some("31"));
    }

    #[test]
    fn what_a_client_sent_cannot_leave_its_place() {
        let json = policy(
            r#"[{"on":["open"],"respond":{"status":200,"headers":{"content-type":"application/json"},"body":"{\"p\":\"${path}\"}"}}]"#,
        );
        assert_eq!(reply(&json, &open(false), b"/a\",\"x\":\"\n").body, br#"{"p":"/a\",\"x\":\"\n"}"#);
        let html = policy(
            r#"[{"on":["open"],"respond":{"status":200,"headers":{"content-type":"text/html"},"body":"<p>${header.x-id}"}}]"#,
        );
        assert_eq!(reply(&html, &open(false), b"<script>").body, b"<p>&lt;script&gt;");
        let text =
            policy(r#"[{"on":["open"],"respond":{"status":200,"body":"${reason} ${policy} ${retry_after} ${path}"}}]"#);
        assert_eq!(reply(&text, &open(false), b"/\xff").body, b"open orders 31 /\xff");
    }

    #[test]
    fn strings_of_a_json_body_are_filled_in_and_stay_strings() {
        let with = |headers: &str| {
            let respond = format!(
                r#"{{"status":200,"headers":{headers},"body":{{"why":"${{reason}}","at":["<${{path}}>",{{"${{path}}":31}}]}}}}"#
            );
            policy(&format!(r#"[{{"on":["open"],"respond":{respond}}}]"#))
        };
        let body = |headers: &str, value: &[u8]| {
            let body = reply(&with(headers), &open(false), value).body;
            let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read["at"][0].as_str().unwrap(), format!("<{}>", String::from_utf8_lossy(value)));
            String::from_utf8(body).unwrap()
        };
        assert_eq!(body("{}", b"/a?b=1&c"), r#"{"why":"open","at":["</a?b=1&c>",{"${path}":31}]}"#);
        assert_eq!(body("{}", b"\",\"x\":\"\n"), r#"{"why":"open","at":["<\",\"x\":\"\n>",{"${path}":31}]}"#);
        let markup = r#"{"content-type":"text/html"}"#;
        let safe = "{\"why\":\"open\",\"at\":[\"<\\u003cscript\\u003e\\u0026\\u0027>\",{\"${path}\":31}]}";
        assert_eq!(body(markup, b"<script>&'"), safe, "as a JSON text it means the same");
    }

    #[test]
    fn values_of_headers_are_filled_in() {
        let policy = policy(
            r#"[{"on":["open"],"respond":{"status":200,"headers":
                 {"x-a":"${reason} of ${policy}: ${retry_after} s","x-b":"a$${b}","x-c":"","x-id":"${header.x-id}"}}}]"#,
        );
        for grpc in [false, true] {
            let reply = reply(&policy, &open(grpc), b"17");
            assert_eq!(header(&reply, "x-a"), Some("open of orders: 31 s"));
            assert_eq!(header(&reply, "x-b"), Some("a${b}"));
            assert_eq!(header(&reply, "x-c"), Some(""), "an empty value that was written is sent");
            assert_eq!(header(&reply, "x-id"), Some("17"));
        }
    }

    #[test]
    fn no_value_of_a_request_ends_a_header() {
        let policy = policy(
            r#"[{"on":["open"],"respond":{"status":200,"headers":{"x-a":"<${path}>","x-id":"${header.x-id}"}}}]"#,
        );
        let headers = |value: &[u8]| {
            let reply = reply(&policy, &open(false), value);
            let value = |name| header(&reply, name).map(str::to_owned);
            (value("x-a"), value("x-id"))
        };
        let some = |a: &str, id: &str| (Some(a.to_owned()), Some(id.to_owned()));
        assert_eq!(headers(b"/a\r\nx-evil: 1"), some("</a  x-evil: 1>", "/a  x-evil: 1"));
        assert_eq!(headers(b"a\0b\x1b\x7f"), some("<a b  >", "a b"));
        assert_eq!(headers("é".as_bytes()), some("<é>", "é"));
        assert_eq!(headers(b"\xe9"), some("<\u{fffd}>", "\u{fffd}"), "what is no UTF-8 is replaced");
        let empty = (Some("<>".to_owned()), None);
        assert_eq!(headers(b""), empty, "a header that came out empty is left out");
        assert_eq!(headers(b"\r\n"), (Some("<  >".to_owned()), None));
        assert_eq!(headers(&[b'a'; 8190]).0.map(|value| value.len()), Some(8192));
        assert_eq!(headers(&[b'a'; 8191]).0, None, "one that no client would take is left out");
    }

    #[test]
    fn a_header_that_came_out_empty_gives_way_to_what_is_sent_without_it() {
        let policy = policy(
            r#"[{"on":["open"],"respond":{"status":200,"headers":
                 {"cache-control":"${header.cache-control}","retry-after":"${header.x-wait}"}}}]"#,
        );
        let none = reply(&policy, &open(false), b"");
        assert_eq!((header(&none, "cache-control"), header(&none, "retry-after")), (Some("no-store"), Some("31")));
        let both = reply(&policy, &open(false), b"7");
        assert_eq!((header(&both, "cache-control"), header(&both, "retry-after")), (Some("7"), Some("7")));
    }
}
