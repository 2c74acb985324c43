//! Properties of the policy document's reader over documents nobody would write.
#![cfg(not(target_arch = "wasm32"))]

use std::time::Duration;

use holdfast_policy::config::{self, Error, MAX_LISTED, duration};
use proptest::prelude::*;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// Every key of the document, some near misses, and some that are none.
const KEYS: &[&str] = &[
    "policies",
    "name",
    "match",
    "cluster",
    "route",
    "authority",
    "path",
    "method",
    "header",
    "scope",
    "max_keys",
    "mode",
    "outcome",
    "failure",
    "ignore",
    "status",
    "grpc_status",
    "local",
    "broken",
    "slow_after",
    "client_gone",
    "breaker",
    "window",
    "min_requests",
    "failure_rate",
    "slow_rate",
    "consecutive_failures",
    "open_for",
    "open_growth",
    "open_max",
    "open_jitter",
    "honor_retry_after",
    "half_open",
    "probes",
    "lease",
    "ramp",
    "state",
    "concurrency",
    "max_requests",
    "throttle",
    "success_rate",
    "aggression",
    "max_rejection",
    "min_rps",
    "fallback",
    "on",
    "respond",
    "headers",
    "body",
    "retry",
    "max_retries",
    "methods",
    "idempotency_header",
    "per_try_timeout",
    "timeout",
    "backoff",
    "base",
    "max",
    "jitter",
    "retry_after",
    "honor",
    "budget",
    "ratio",
    "min_per_second",
    "skip_retries_of_retries",
    "hedge_on_per_try_timeout",
    "outlier",
    "consecutive_gateway_failures",
    "consecutive_local_failures",
    "threshold",
    "min_hosts",
    "stdev_factor",
    "latency",
    "deviation",
    "floor",
    "grace",
    "heartbeat",
    "unhealthy_after",
    "healthy_after",
    "host",
    "grpc",
    "service",
    "interval",
    "base_ejection_time",
    "max_ejection_time",
    "ejection_jitter",
    "max_ejected",
    "always_eject_one",
    "panic_threshold",
    "probe",
    "requests",
    "slow_start",
    "hosts",
    "discover",
    "balance",
    "stale",
    "call",
    "failureRate",
    "nmae",
    "",
    "x-tenant",
    "é",
    ":path",
    "a\\nb",
    "\\u0000",
    "\\\"",
];

const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "1",
    "-0",
    "-1",
    "0.5",
    "1e3",
    "1e-9",
    "50",
    "100.1",
    "503",
    "4294967296",
    "18446744073709551615",
    "-9223372036854775808",
    "1e308",
    "\"\"",
    "\"orders\"",
    "\"cluster\"",
    "\"enforce\"",
    "\"forced_open\"",
    "\"auto\"",
    "\"10s\"",
    "\"1m30s\"",
    "\"999999999999h\"",
    "\"0.00000000000000000000001ns\"",
    "\"5xx\"",
    "\"500-599\"",
    "\"599-500\"",
    "\"UNAVAILABLE\"",
    "\"open\"",
    "\"failure\"",
    "\"retries_exhausted\"",
    "\"no_host\"",
    "\"gateway-error\"",
    "\"rest\"",
    "\"get\"",
    "\"POST\"",
    "\"full\"",
    "\"10.0.0.1:8080\"",
    "\"[::1]:80\"",
    "\"orders:8080\"",
    "\"round_robin\"",
    "\"/a/**\"",
    "\"***\"",
    "\"${reason}\"",
    "\"$${\"",
    "\"${\"",
    "\"é${header.é}\"",
    "\"\\u0000\\u001b\"",
    "[]",
    "{}",
];

/// JSON text made of the document's keys in any place, duplicates included.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        8 => prop::sample::select(VALUES).prop_map(str::to_owned),
        1 => any::<f64>().prop_filter("JSON has no others", |value| value.is_finite()).prop_map(|v| format!("{v:e}")),
        1 => "[a-z0-9$*{}.:-]{0,80}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(6, 120, 10, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            3 => prop::collection::vec((prop::sample::select(KEYS), inner), 0..10).prop_map(|entries| object(&entries)),
        ]
    })
}

fn object<K: AsRef<str>>(entries: &[(K, String)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{}\":{value}", key.as_ref())).collect();
    format!("{{{}}}", entries.join(","))
}

/// An object with any of the entries, in the order given.
fn some_of(entries: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<String> {
    let strategies: Vec<_> =
        entries.into_iter().map(|(key, value)| prop::option::of(value.prop_map(move |value| (key, value)))).collect();
    strategies.prop_map(|entries| object(&entries.into_iter().flatten().collect::<Vec<_>>())).boxed()
}

/// Documents in which the blocks are where they belong and their values are anything.
fn plausible() -> impl Strategy<Value = String> {
    let any = || json().boxed();
    let breaker = some_of(vec![
        ("window", any()),
        ("min_requests", any()),
        ("failure_rate", any()),
        ("slow_rate", any()),
        ("consecutive_failures", any()),
        ("open_for", any()),
        ("open_growth", any()),
        ("open_max", any()),
        ("half_open", some_of(vec![("probes", any()), ("lease", any())])),
        ("state", any()),
    ]);
    let retry = some_of(vec![
        ("max_retries", any()),
        ("on", list(any())),
        ("methods", list(any())),
        ("idempotency_header", any()),
        ("per_try_timeout", any()),
        ("timeout", any()),
        ("backoff", some_of(vec![("base", any()), ("max", any()), ("jitter", any())])),
        ("retry_after", some_of(vec![("honor", any()), ("max", any())])),
        ("budget", some_of(vec![("ratio", any()), ("min_per_second", any()), ("window", any())])),
        ("hedge_on_per_try_timeout", any()),
    ]);
    let one_or_hash =
        || prop_oneof![any(), some_of(vec![("hash", some_of(vec![("header", any()), ("cookie", any())]))])].boxed();
    let rate = || some_of(vec![("threshold", any()), ("stdev_factor", any()), ("min_hosts", any()), ("mode", any())]);
    let outlier = some_of(vec![
        ("consecutive_failures", any()),
        ("consecutive_gateway_failures", rate()),
        ("failure_rate", rate()),
        ("success_rate", rate()),
        ("latency", some_of(vec![("deviation", any()), ("min_hosts", any()), ("floor", any()), ("grace", any())])),
        (
            "heartbeat",
            some_of(vec![
                ("path", any()),
                ("grpc", some_of(vec![("service", any())])),
                ("host", any()),
                ("headers", any()),
                ("status", list(any())),
                ("healthy_after", any()),
            ]),
        ),
        ("base_ejection_time", any()),
        ("max_ejection_time", any()),
        ("max_ejected", any()),
        ("probe", some_of(vec![("requests", any())])),
        ("hosts", list(any())),
        ("discover", some_of(vec![("cluster", any()), ("path", any()), ("interval", any())])),
        ("balance", one_or_hash()),
        ("mode", any()),
    ]);
    let respond = some_of(vec![("status", any()), ("headers", any()), ("body", any()), ("grpc_status", any())]);
    let fallback = some_of(vec![("on", list(any())), ("respond", respond)]);
    let policy = some_of(vec![
        ("name", any()),
        ("match", some_of(vec![("path", list(any())), ("authority", any()), ("header", any())])),
        ("scope", list(any())),
        (
            "outcome",
            some_of(vec![
                ("failure", some_of(vec![("header", any()), ("broken", any()), ("status", any())])),
                ("ignore", some_of(vec![("header", any()), ("grpc_status", any())])),
                ("slow_after", any()),
                ("client_gone", any()),
            ]),
        ),
        ("breaker", breaker),
        ("concurrency", any()),
        ("throttle", any()),
        ("retry", retry),
        ("outlier", outlier),
        ("fallback", list(fallback)),
    ]);
    list(policy).prop_map(|policies| format!("{{\"policies\":{policies}}}"))
}

fn list(item: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))).boxed()
}

/// Documents without a mistake.
fn valid() -> impl Strategy<Value = String> {
    prop::collection::vec(valid_policy(), 0..4).prop_map(|policies| {
        let named = policies.iter().enumerate().map(|(index, rest)| rest.replacen('{', &start(index, rest), 1));
        format!("{{\"policies\":[{}]}}", named.collect::<Vec<_>>().join(","))
    })
}

fn start(index: usize, rest: &str) -> String {
    format!("{{\"name\":\"p-{index}_x\"{}", if rest == "{}" { "" } else { "," })
}

fn one_of(values: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(values).prop_map(str::to_owned).boxed()
}

fn between(first: u32, last: u32) -> BoxedStrategy<String> {
    (first..=last).prop_map(|value| value.to_string()).boxed()
}

fn percent() -> BoxedStrategy<String> {
    (1_u32..=100_000).prop_map(|thousandths| (f64::from(thousandths) / 1000.0).to_string()).boxed()
}

fn time(first: Duration, last: Duration) -> BoxedStrategy<String> {
    (first.as_nanos() as u64..=last.as_nanos() as u64)
        .prop_map(|nanos| format!("\"{}\"", duration::text(Duration::from_nanos(nanos))))
        .boxed()
}

fn valid_policy() -> BoxedStrategy<String> {
    const HOUR: Duration = Duration::from_secs(3600);
    let seconds = Duration::from_secs;
    let mode = || one_of(&["\"enforce\"", "\"shadow\"", "\"off\""]);
    let globs = || one_of(&["\"a*\"", "[\"**\"]", "[\"/a/**\",\"*\"]", "[\"é\"]"]);
    let statuses = || one_of(&["[]", "[500]", "[\"500-599\",\"429\",404.0]", "[\"100-100\"]"]);
    let grpc = || one_of(&["[]", "[0,16]", "[\"OK\",\"UNAVAILABLE\",14]"]);
    let judged = || one_of(&["{}", "{\"X-App-Error\":\"*\",\"x-b\":\"b\"}", "{\"retry-after\":\"é**\"}"]);
    let window = prop_oneof![time(Duration::from_millis(100), HOUR), between(20, 1000)].boxed();
    some_of(vec![
        (
            "match",
            some_of(vec![
                ("cluster", globs()),
                ("route", globs()),
                ("authority", globs()),
                ("path", globs()),
                ("method", globs()),
                ("header", one_of(&["{}", "{\"X-A\":\"*\",\"x-b\":\"b\"}"])),
            ]),
        ),
        ("scope", one_of(&["[]", "[\"cluster\",\"route\",\"authority\",{\"header\":\"X-A\"}]"])),
        ("max_keys", between(1, 4096)),
        ("mode", mode()),
        (
            "outcome",
            some_of(vec![
                (
                    "failure",
                    some_of(vec![
                        ("status", statuses()),
                        ("grpc_status", grpc()),
                        ("header", judged()),
                        ("local", one_of(&["true", "false"])),
                        ("broken", one_of(&["true", "false"])),
                    ]),
                ),
                ("ignore", some_of(vec![("status", statuses()), ("grpc_status", grpc()), ("header", judged())])),
                ("slow_after", time(Duration::from_millis(1), HOUR)),
                ("client_gone", one_of(&["\"auto\"", "\"ignore\""])),
            ]),
        ),
        (
            "breaker",
            some_of(vec![
                ("window", window),
                ("min_requests", between(1, 20)),
                ("failure_rate", percent()),
                ("consecutive_failures", between(0, 1000)),
                ("open_for", time(Duration::from_millis(1), seconds(300))),
                ("open_growth", one_of(&["1", "1.5", "10"])),
                ("open_max", time(seconds(300), seconds(24 * 3600))),
                ("open_jitter", percent()),
                ("honor_retry_after", one_of(&["true", "false"])),
                (
                    "half_open",
                    some_of(vec![("probes", between(1, 100)), ("lease", time(Duration::from_millis(10), HOUR))]),
                ),
                ("ramp", time(Duration::ZERO, HOUR)),
                ("state", one_of(&["\"auto\"", "\"forced_open\"", "\"forced_closed\""])),
                ("mode", mode()),
            ]),
        ),
        ("concurrency", between(1, 1_000_000).prop_map(|max| format!("{{\"max_requests\":{max}}}")).boxed()),
        (
            "throttle",
            some_of(vec![
                ("success_rate", between(1, 100)),
                ("aggression", one_of(&["1", "2.5"])),
                ("max_rejection", percent()),
                ("min_rps", between(0, 1_000_000)),
                ("window", time(seconds(1), HOUR)),
                ("mode", mode()),
            ]),
        ),
        ("retry", valid_retry()),
        ("outlier", valid_outlier()),
        (
            "fallback",
            one_of(&[
                "[]",
                "[{\"on\":[\"failure\"],\"respond\":{\"status\":200,\"body\":{\"a\":1}}}]",
                "[{\"on\":[\"timeout\",\"failure\"],\"respond\":{\"status\":599,\"headers\":{\"X-A\":\"b\"},\
                 \"body\":\"${reason} $${ ${header.X-Id}$\",\"grpc_status\":\"OK\"}}]",
            ]),
        ),
    ])
}

fn valid_retry() -> BoxedStrategy<String> {
    let (millisecond, second, minute, hour) =
        (Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600));
    let flag = || one_of(&["true", "false"]);
    some_of(vec![
        ("max_retries", between(0, 20)),
        ("on", one_of(&["[\"5xx\"]", "[\"reset\",429,\"500-599\",\"503\"]", "[\"unavailable\",\"connect-failure\"]"])),
        ("methods", one_of(&["[\"GET\"]", "[\"POST\",\"M-SEARCH\"]"])),
        ("idempotency_header", one_of(&["\"X-A\"", "\"idempotency-key\""])),
        ("per_try_timeout", time(millisecond, second)),
        ("timeout", time(second, hour)),
        (
            "backoff",
            some_of(vec![
                ("base", time(millisecond, second)),
                ("max", time(second, 5 * minute)),
                ("jitter", one_of(&["\"full\"", "\"equal\"", "\"decorrelated\"", "\"none\""])),
            ]),
        ),
        ("retry_after", some_of(vec![("honor", flag()), ("max", time(Duration::ZERO, hour))])),
        (
            "budget",
            some_of(vec![
                ("ratio", percent()),
                ("min_per_second", one_of(&["0", "0.25", "10000"])),
                ("window", time(second, 5 * minute)),
            ]),
        ),
        ("skip_retries_of_retries", flag()),
        ("mode", one_of(&["\"enforce\"", "\"shadow\"", "\"off\""])),
    ])
}

fn valid_outlier() -> BoxedStrategy<String> {
    let (millisecond, minute, hour) = (Duration::from_millis(1), Duration::from_secs(60), Duration::from_secs(3600));
    let mode = || one_of(&["\"enforce\"", "\"shadow\"", "\"off\""]);
    let interval = || time(100 * millisecond, hour);
    let runs = || one_of(&["0", "1", "1000", "{}", "{\"threshold\":0}", "{\"threshold\":7,\"mode\":\"shadow\"}"]);
    let (requests, hosts) = (|| between(1, 1_000_000), || between(1, 1000));
    let volume = move || vec![("min_requests", requests()), ("min_hosts", hosts()), ("mode", mode())];
    let with = move |more: Vec<(&'static str, BoxedStrategy<String>)>| some_of([more, volume()].concat());
    let given = some_of(vec![
        ("consecutive_gateway_failures", runs()),
        ("consecutive_local_failures", runs()),
        ("failure_rate", with(vec![("threshold", percent())])),
        ("success_rate", with(vec![("stdev_factor", one_of(&["0", "1.9", "10"]))])),
        (
            "latency",
            some_of(vec![
                ("deviation", between(1, 100_000)),
                ("min_hosts", between(2, 1000)),
                ("floor", time(Duration::ZERO, minute)),
                ("grace", time(Duration::ZERO, hour)),
                ("mode", mode()),
            ]),
        ),
        (
            "heartbeat",
            some_of(vec![
                ("path", one_of(&["\"/\"", "\"/ready?deep=1\""])),
                ("host", one_of(&["\"orders\"", "\"[::1]:80\""])),
                ("headers", one_of(&["{}", "{\"Authorization\":\"Bearer a\"}"])),
                ("interval", interval()),
                ("timeout", time(millisecond, minute)),
                ("unhealthy_after", between(1, 100)),
                ("healthy_after", between(1, 100)),
                ("status", one_of(&["[200]", "[\"200-299\",404]"])),
                ("mode", mode()),
            ]),
        ),
        ("interval", interval()),
        ("base_ejection_time", time(millisecond, minute)),
        ("max_ejection_time", time(minute, 24 * hour)),
        ("ejection_jitter", percent()),
        ("max_ejected", percent()),
        ("always_eject_one", one_of(&["true", "false"])),
        ("panic_threshold", percent()),
        ("probe", some_of(vec![("requests", between(1, 100))])),
        ("slow_start", time(Duration::ZERO, hour)),
        ("hosts", one_of(&["[]", "[\"10.0.0.1:80\",\"[2001:DB8::1]:65535\",\"10.0.0.1:81\"]"])),
        (
            "discover",
            interval().prop_map(|every| format!("{{\"cluster\":\"a\",\"path\":\"/\",\"interval\":{every}}}")).boxed(),
        ),
        ("balance", one_of(&["\"envoy\""])),
    ]);
    // Where hosts are known each of them may be chosen.
    const BALANCES: &[&str] =
        &["\"envoy\"", "\"weighted\"", "\"least_latency\"", "{\"hash\":\"path\"}", "{\"hash\":{\"cookie\":\"s\"}}"];
    let given = (given, one_of(BALANCES)).prop_map(|(given, balance)| match given.contains("\"discover\"") {
        true => given.replace("\"balance\":\"envoy\"", &format!("\"balance\":{balance}")),
        false => given,
    });
    // One detector that is on, whatever the others are; or all are off.
    let first = one_of(&["\"consecutive_failures\":{\"mode\":\"enforce\"}", "\"mode\":\"off\""]);
    (first, given)
        .prop_map(|(first, given)| {
            given.replacen('{', &format!("{{{first}{}", if given == "{}" { "" } else { "," }), 1)
        })
        .boxed()
}

/// What holds for every answer, whatever the bytes.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Err(errors) = config::parse(bytes) else { return Ok(()) };
    prop_assert!(!errors.listed().is_empty());
    prop_assert!(errors.listed().len() <= MAX_LISTED.min(errors.total()));
    for error in errors.listed() {
        let Error { path, problem } = error;
        prop_assert!(path.starts_with("policies") || path.starts_with("document"), "{error}");
        prop_assert!(!problem.is_empty() && !error.to_string().contains(char::is_control), "{error:?}");
        prop_assert!(error.to_string().len() < 2000, "{error}");
    }
    prop_assert_eq!(errors.to_string().lines().count(), errors.listed().len() + usize::from(errors.unlisted() > 0));
    Ok(())
}

/// The one policy of a document's text.
fn inner(text: &str) -> &str {
    text.strip_prefix("{\"policies\":[").and_then(|rest| rest.strip_suffix("]}")).unwrap_or_default()
}

/// The bytes of a `google.protobuf.Struct` that says the same as a JSON object; `None` for any other value.
fn as_struct(json: &str) -> Option<Vec<u8>> {
    fn structure(object: serde_json::Map<String, serde_json::Value>) -> Struct {
        Struct { fields: object.into_iter().map(|(key, inner)| (key, value(inner))).collect() }
    }
    fn value(json: serde_json::Value) -> Value {
        let kind = match json {
            serde_json::Value::Null => Kind::NullValue(0),
            serde_json::Value::Bool(value) => Kind::BoolValue(value),
            serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Kind::StringValue(text),
            serde_json::Value::Array(items) => {
                Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() })
            }
            serde_json::Value::Object(object) => Kind::StructValue(structure(object)),
        };
        Value { kind: Some(kind) }
    }
    match serde_json::from_str(json).ok()? {
        serde_json::Value::Object(object) => Some(structure(object).encode_to_vec()),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_in_good_order(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(config::parse(&bytes).is_err());
        check(&bytes)?;
    }

    #[test]
    fn arbitrary_json_is_answered_in_good_order(json in json()) {
        check(json.as_bytes())?;
        check(format!("{{\"policies\":[{json}]}}").as_bytes())?;
    }

    #[test]
    fn plausible_documents_are_answered_in_good_order(json in plausible()) {
        check(json.as_bytes())?;
    }

    #[test]
    fn valid_documents_compile_and_no_part_of_one_does(json in valid(), cut in any::<prop::sample::Index>()) {
        match config::parse(json.as_bytes()) {
            Ok(document) => prop_assert_eq!(document.policies.len(), json.matches("\"name\"").count()),
            Err(errors) => return Err(TestCaseError::fail(format!("{json}\n{errors}"))),
        }
        let part = json.as_bytes().get(..cut.index(json.len())).unwrap_or_default();
        prop_assert!(config::parse(part).is_err());
        check(part)?;
    }

    #[test]
    fn a_struct_means_what_its_json_does(json in valid(), cut in any::<prop::sample::Index>()) {
        let bytes = as_struct(&json).unwrap_or_default();
        prop_assert_eq!(config::parse(&bytes), config::parse(json.as_bytes()), "{}", json);
        let texts = config::policy_texts(&bytes);
        let together = format!("{{\"policies\":[{}]}}", texts.iter().map(|text| inner(text)).collect::<Vec<_>>().join(","));
        prop_assert_eq!(config::parse_struct_json(together.as_bytes()), config::parse(&bytes), "what is published says the same");
        // An empty one is no bytes, and is refused in its own way.
        let part = bytes.get(..cut.index(bytes.len())).unwrap_or_default();
        prop_assert!(config::parse(part).is_err());
        check(part)?;
    }

    #[test]
    fn hostile_structs_are_answered_in_good_order(json in plausible(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4)) {
        let mut bytes = as_struct(&json).unwrap_or_default();
        check(&bytes)?;
        for (at, byte) in changes.iter().filter(|_| !bytes.is_empty()).map(|(at, byte)| (at.index(bytes.len()), *byte)).collect::<Vec<_>>() {
            bytes[at] = byte;
        }
        check(&bytes)?;
    }

    #[test]
    fn durations_survive_being_written_and_read(nanos in any::<u64>()) {
        let written = duration::text(Duration::from_nanos(nanos));
        prop_assert_eq!(duration::parse(&written), Some(Duration::from_nanos(nanos)), "{}", written);
    }

    #[test]
    fn any_text_is_a_duration_or_none(text in "[0-9.hmsun]{0,30}") {
        if let Some(read) = duration::parse(&text) {
            prop_assert_eq!(duration::parse(&duration::text(read)), Some(read));
        }
    }
}
