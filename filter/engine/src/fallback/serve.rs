//! The choice of a fallback by its reason.

use holdfast_policy::document::{Call, FallbackKind, Mode, Policy, Reason, Route, StaticResponse};

use super::reply::{
    Disposition, FALLBACK_HEADER, Failed, GrpcStatus, LocalReply, REJECT_HEADER, Reply, ReplyContext, UNAVAILABLE,
    Unserved, http_status, retry_after_seconds,
};
use super::stale::ServedAnswer;
use super::template::Values;
use crate::event::Event;
use crate::http::grpc::GrpcDialect;
use crate::http::outcome::{Answer, Outcome};
use crate::http::request::Field;
use crate::metric::Metric;

/// Where fallbacks have what they serve from.
pub struct Sources<'a> {
    /// Gives a field of the request, if it has it.
    pub value: &'a mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
    /// Gives the last good answer to the request.
    pub stale: &'a mut dyn FnMut() -> Result<ServedAnswer, Unserved>,
    /// Whether the request may go to another cluster.
    pub route: &'a mut dyn FnMut(&Route) -> Result<(), Unserved>,
    /// Whether the request may be repeated in another cluster.
    pub call: &'a mut dyn FnMut(&Call) -> Result<(), Unserved>,
}

/// What becomes of a rejected request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// It is answered.
    Reply(LocalReply),
    /// It goes to another cluster.
    Detour(Detour),
}

/// What stands in for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandIn {
    /// This.
    Reply(LocalReply),
    /// What another cluster answers to the same request.
    Call(Box<AskedCall>),
}

/// What a fallback does.
enum Chosen {
    Reply(LocalReply),
    Detour(Detour),
    Call(Box<AskedCall>),
}

impl Chosen {
    /// In the place of a request that goes no further.
    fn for_a_rejection(self) -> Option<Served> {
        match self {
            Chosen::Reply(local) => Some(Served::Reply(local)),
            Chosen::Detour(detour) => Some(Served::Detour(detour)),
            // Its reasons are none of a rejection's.
            Chosen::Call(_) => None,
        }
    }

    /// In the place of an answer.
    fn for_an_answer(self) -> Option<StandIn> {
        match self {
            Chosen::Reply(local) => Some(StandIn::Reply(local)),
            Chosen::Call(asked) => Some(StandIn::Call(asked)),
            // It is too late for that, as the source has said.
            Chosen::Detour(_) => None,
        }
    }
}

/// A call that is to be made in place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedCall {
    /// Its rules.
    pub call: Call,
    /// Why and for whom.
    pub context: ReplyContext,
    /// All reasons, from the most to the least specific.
    reasons: Vec<Reason>,
    /// How many of the entries for them were asked, this one included.
    asked: usize,
}

/// A rejected request's way to another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// The cluster.
    pub cluster: String,
    /// Why it goes there, and for whom it would be answered.
    pub context: ReplyContext,
    /// How many of the entries for its reason were asked, this one included.
    pub asked: usize,
}

/// Serves a rejected request: with the first fallback that names the reason and can serve, else with the plain rejection. The first
/// `asked` entries for the reason are left out. Those that could not serve are added to `failed`.
pub fn serve_rejection(
    policy: &Policy,
    context: ReplyContext,
    asked: usize,
    sources: &mut Sources<'_>,
    failed: &mut Vec<Failed>,
    events: &mut Vec<Event>,
) -> Served {
    let chosen = serve(policy, &[context.reason], context, asked, sources, failed, events);
    chosen.and_then(Chosen::for_a_rejection).unwrap_or_else(|| {
        let disposition = Disposition::Rejected(context.reason);
        Served::Reply(LocalReply { reply: plain_rejection(policy, &context), disposition })
    })
}

/// An answer that may have failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedAnswer<'a> {
    /// What came back.
    pub answer: Answer,
    /// What it counts as.
    pub outcome: &'a Outcome,
    /// How many attempts there were after the first.
    pub retries: u32,
    /// Whether the request has counted as one that would have had a fallback.
    pub would_be_served: bool,
    /// How the client speaks gRPC, if it does.
    pub grpc: Option<GrpcDialect>,
}

/// Serves in place of the host's answer, if that was a failure or a time-out and a fallback is for it that can serve. Those that could
/// not are added to `failed`.
pub fn serve_failure(
    policy: &Policy,
    answered: FailedAnswer<'_>,
    sources: &mut Sources<'_>,
    failed: &mut Vec<Failed>,
    events: &mut Vec<Event>,
) -> Option<StandIn> {
    let FailedAnswer { answer, outcome, retries, would_be_served, grpc } = answered;
    let reasons = failure_reasons(answer, outcome.failed(), retries > 0);
    let reason = *reasons.first()?;
    if would_be_served && policy.mode == Mode::Shadow {
        return None;
    }
    let context = ReplyContext { reason, retry_after: None, grpc };
    serve(policy, reasons, context, 0, sources, failed, events).and_then(Chosen::for_an_answer)
}

/// Serves with the next fallback, where a call has come to nothing.
pub fn serve_after_call(
    policy: &Policy,
    asked: &AskedCall,
    why: Unserved,
    sources: &mut Sources<'_>,
    failed: &mut Vec<Failed>,
    events: &mut Vec<Event>,
) -> Option<StandIn> {
    events.push(Event::Count(Metric::FallbackFailedCall));
    failed.push(Failed { kind: CALL, why });
    serve(policy, &asked.reasons, asked.context, asked.asked, sources, failed, events).and_then(Chosen::for_an_answer)
}

/// For which reasons a fallback may serve in place of an answer, from the most to the least specific.
fn failure_reasons(answer: Answer, has_failed: bool, was_retried: bool) -> &'static [Reason] {
    match (answer, has_failed, was_retried) {
        (Answer::TimedOut, true, true) => &[Reason::Timeout, Reason::RetriesExhausted, Reason::Failure],
        (Answer::TimedOut, true, false) => &[Reason::Timeout, Reason::Failure],
        (Answer::TimedOut, false, _) => &[Reason::Timeout],
        (Answer::NoHost, true, true) => &[Reason::NoHost, Reason::RetriesExhausted, Reason::Failure],
        (Answer::NoHost, true, false) => &[Reason::NoHost, Reason::Failure],
        (Answer::NoHost, false, _) => &[Reason::NoHost],
        (_, true, true) => &[Reason::RetriesExhausted, Reason::Failure],
        (_, true, false) => &[Reason::Failure],
        (_, false, _) => &[],
    }
}

/// The cluster that is to serve after the last attempt, and why; `None` where a fallback in front can serve, or there is none for it.
/// `can_serve` says so of the last good answer, and of a cluster.
pub fn choose_further(
    policy: &Policy,
    (answer, was_retried): (Answer, bool),
    has_stale: bool,
    mut can_serve: impl FnMut(&Route) -> bool,
) -> Option<(&Route, Reason)> {
    if policy.mode != Mode::Enforce {
        return None;
    }
    let reasons = failure_reasons(answer, true, was_retried);
    for entry in policy.fallbacks_for(reasons) {
        match &entry.kind {
            FallbackKind::Static(_) => return None,
            FallbackKind::Stale(_) if has_stale => return None,
            FallbackKind::Stale(_) => {}
            FallbackKind::Route(route) if can_serve(route) => return Some((route, *reasons.first()?)),
            FallbackKind::Route(_) => {}
            // It is made in place of the answer.
            FallbackKind::Call(_) => return None,
        }
    }
    None
}

/// Counts which fallback would have served a request that a feature in shadow mode would have rejected. Whether one would have.
pub fn would_serve(policy: &Policy, reason: Reason, sources: &mut Sources<'_>, events: &mut Vec<Event>) -> bool {
    let served = policy.fallbacks_for(&[reason]).find_map(|entry| match &entry.kind {
        FallbackKind::Static(_) => Some(Metric::WouldFallbackStatic),
        FallbackKind::Stale(_) => (sources.stale)().ok().map(|_| Metric::WouldFallbackStale),
        FallbackKind::Route(route) => (sources.route)(route).ok().map(|()| Metric::WouldFallbackRoute),
        // It is for no reason that a rejection has.
        FallbackKind::Call(_) => None,
    });
    events.extend(served.map(Event::Count));
    served.is_some()
}

/// Serves with the first fallback that names one of `reasons`, which go from the most to the least specific, and can serve, unless the
/// policy only pretends.
fn serve(
    policy: &Policy,
    reasons: &[Reason],
    context: ReplyContext,
    asked: usize,
    sources: &mut Sources<'_>,
    failed: &mut Vec<Failed>,
    events: &mut Vec<Event>,
) -> Option<Chosen> {
    if policy.mode == Mode::Off {
        return None;
    }
    let is_real = policy.mode == Mode::Enforce;
    for (index, entry) in policy.fallbacks_for(reasons).enumerate().skip(asked) {
        let (reply, disposition, metrics) = match &entry.kind {
            FallbackKind::Static(response) => {
                let metrics = (Metric::FallbackStatic, Metric::WouldFallbackStatic);
                let reply = is_real.then(|| static_reply(policy, response, &context, sources.value));
                (reply, Disposition::Static(context.reason), metrics)
            }
            FallbackKind::Stale(_) => match (sources.stale)() {
                Ok(answer) => {
                    let disposition = Disposition::Stale(context.reason, answer.age);
                    let metrics = (Metric::FallbackStale, Metric::WouldFallbackStale);
                    (Some(stale_reply(policy, answer, context.reason)), disposition, metrics)
                }
                Err(why) => {
                    if is_real {
                        events.push(Event::Count(Metric::FallbackFailedStale));
                        failed.push(Failed { kind: STALE, why });
                    }
                    continue;
                }
            },
            FallbackKind::Route(route) => match (sources.route)(route) {
                Ok(()) => {
                    events.push(Event::Count(if is_real { Metric::FallbackRoute } else { Metric::WouldFallbackRoute }));
                    let (cluster, asked) = (route.cluster.clone(), index.saturating_add(1));
                    return is_real.then_some(Chosen::Detour(Detour { cluster, context, asked }));
                }
                Err(why) => {
                    if is_real {
                        events.push(Event::Count(Metric::FallbackFailedRoute));
                        failed.push(Failed { kind: ROUTE, why });
                    }
                    continue;
                }
            },
            FallbackKind::Call(call) => match (sources.call)(call) {
                Ok(()) if !is_real => {
                    events.push(Event::Count(Metric::WouldFallbackCall));
                    return None;
                }
                Ok(()) => {
                    let (call, reasons, asked) = (call.clone(), reasons.to_vec(), index.saturating_add(1));
                    return Some(Chosen::Call(Box::new(AskedCall { call, context, reasons, asked })));
                }
                Err(why) => {
                    if is_real {
                        events.push(Event::Count(Metric::FallbackFailedCall));
                        failed.push(Failed { kind: CALL, why });
                    }
                    continue;
                }
            },
        };
        events.push(Event::Count(if is_real { metrics.0 } else { metrics.1 }));
        return reply.filter(|_| is_real).map(|reply| Chosen::Reply(LocalReply { reply, disposition }));
    }
    None
}

/// The words for the last good answer, a fixed response, another cluster, and the same request there.
pub(crate) const STALE: &str = "stale";
pub(crate) const STATIC: &str = "static";
pub(crate) const ROUTE: &str = "route";
pub(crate) const CALL: &str = "call";

/// What an answer says that came by a detour, in [`FALLBACK_HEADER`].
pub fn detour_says(policy: &Policy, detour: &Detour) -> String {
    let reason = detour.context.reason.name();
    format!("{ROUTE}; reason={reason}; policy={}; cluster={}", policy.name, detour.cluster)
}

/// What another cluster has answered to the same request, as it is served in place of the service's answer.
pub fn call_reply(policy: &Policy, asked: &AskedCall, mut reply: Reply, events: &mut Vec<Event>) -> LocalReply {
    let reason = asked.context.reason;
    let says = format!("{CALL}; reason={}; policy={}; cluster={}", reason.name(), policy.name, asked.call.cluster);
    reply.headers.push((FALLBACK_HEADER.to_owned(), says));
    events.push(Event::Count(Metric::FallbackCall));
    LocalReply { reply, disposition: Disposition::Call(reason) }
}

/// The last good answer, as it is served in place of another one.
fn stale_reply(policy: &Policy, answer: ServedAnswer, reason: Reason) -> Reply {
    let ServedAnswer { status, mut headers, body, age } = answer;
    let says = format!("{STALE}; reason={}; policy={}; age={age}", reason.name(), policy.name);
    headers.push((FALLBACK_HEADER.to_owned(), says));
    Reply { status, headers, body, grpc: None }
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
    headers.push((FALLBACK_HEADER.to_owned(), format!("{STATIC}; reason={reason}; policy={}", policy.name)));
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
    use crate::http::outcome::Verdict;
    use core::time::Duration;
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
        let FallbackKind::Static(response) = &policy.fallbacks_for(&[context.reason]).next().unwrap().kind else {
            panic!("it is a fixed one");
        };
        static_reply(policy, response, context, &mut |_| Some(value.to_vec()))
    }

    fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        reply.headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }

    /// What a policy answers where the last good answer is this one, and what it says of that.
    fn answered(
        policy: &Policy,
        answer: Answer,
        stale: Result<u64, Unserved>,
    ) -> (Option<(u16, String)>, Vec<Failed>, Vec<Event>) {
        let served = |age| ServedAnswer { status: 200, headers: Vec::new(), body: b"kept".to_vec(), age };
        let mut sources = Sources {
            value: &mut |_| None,
            stale: &mut || stale.map(served),
            route: &mut |_| Err(Unserved::TooLate),
            call: &mut |_| Err(Unserved::TooLate),
        };
        let outcome = Outcome { verdict: Verdict::Failure, ..Outcome::SUCCESS };
        let (mut failed, mut events) = (Vec::new(), Vec::new());
        let answered = FailedAnswer { answer, outcome: &outcome, retries: 0, would_be_served: false, grpc: None };
        let local = serve_failure(policy, answered, &mut sources, &mut failed, &mut events);
        let said = local.map(|served| {
            let StandIn::Reply(local) = served else { panic!("it is answered: {served:?}") };
            let says = header(&local.reply, FALLBACK_HEADER).unwrap_or_default().to_owned();
            (local.reply.status, says)
        });
        (said, failed, events)
    }

    #[test]
    fn the_first_entry_that_names_the_reason_serves() {
        let policy = policy(
            r#"[{"on":["timeout"],"respond":{"status":504}},
                {"on":["open","failure"],"respond":{"status":200,"body":{"items":[]}}}]"#,
        );
        let status = |answer| answered(&policy, answer, Ok(0)).0;
        let says = |reason: &str| format!("static; reason={reason}; policy=orders");
        assert_eq!(status(Answer::TimedOut), Some((504, says("timeout"))));
        assert_eq!(status(Answer::Http(503)), Some((200, says("failure"))));
        assert!(policy.fallbacks_for(&[Reason::Concurrency]).next().is_none());
    }

    #[test]
    fn an_entry_for_failures_serves_a_time_out_too_and_says_so() {
        let policy = policy(r#"[{"on":["failure"],"respond":{"status":200}}]"#);
        let said = answered(&policy, Answer::TimedOut, Ok(0)).0;
        assert_eq!(said, Some((200, "static; reason=timeout; policy=orders".to_owned())));
    }

    #[test]
    fn an_entry_that_cannot_serve_gives_way_to_the_next_that_names_the_reason() {
        let list = |mode: &str| {
            let text = format!(
                r#"{{"policies":[{{"name":"orders","mode":"{mode}","fallback":[{{"on":["failure"],"stale":{{}}}},
                    {{"on":["timeout"],"respond":{{"status":504}}}},{{"on":["failure"],"respond":{{"status":503}}}}]}}]}}"#
            );
            config::parse(text.as_bytes()).unwrap().policies.remove(0)
        };
        let (policy, failure) = (list("enforce"), Answer::Http(500));
        let (said, failed, events) = answered(&policy, failure, Ok(12));
        assert_eq!(said, Some((200, "stale; reason=failure; policy=orders; age=12".to_owned())));
        assert_eq!((failed, events), (Vec::new(), vec![Event::Count(Metric::FallbackStale)]));
        let (said, failed, events) = answered(&policy, failure, Err(Unserved::TooOld));
        assert_eq!(said, Some((503, "static; reason=failure; policy=orders".to_owned())));
        assert_eq!(failed, [Failed { kind: "stale", why: Unserved::TooOld }]);
        let counted = [Metric::FallbackFailedStale, Metric::FallbackStatic].map(Event::Count);
        assert_eq!(events, counted);
        let shadow = list("shadow");
        let would = |metric| (None, Vec::new(), vec![Event::Count(metric)]);
        assert_eq!(answered(&shadow, failure, Ok(12)), would(Metric::WouldFallbackStale));
        assert_eq!(answered(&shadow, failure, Err(Unserved::Method)), would(Metric::WouldFallbackStatic));
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
