//! The last good answer in place of one that is missing: what is kept, for whom, for how long, and in how much memory.

use holdfast_host_tests::{Answer, Builder, By, Exchange, Fault, Host, Local, Request, Response, status};

use crate::support::{BREAKER, count, millis, seconds, trip};

/// A policy `orders` with one state for everything, this block `stale`, and a fixed response behind it.
fn document(stale: &str, more: &str) -> String {
    let on = r#"["open","failure","timeout","no_host"]"#;
    format!(
        r#"{{"policies":[{{"name":"orders","scope":[],{BREAKER},{more}"fallback":[{{"on":{on},"stale":{stale}}},
            {{"on":{on},"respond":{{"status":418,"body":"nothing is kept"}}}}]}}]}}"#
    )
}

fn keeping(stale: &str) -> Builder {
    Host::with(&document(stale, ""))
}

fn good(body: &str) -> Response {
    Response::status(200).header("content-type", "text/x-own").header("etag", "\"v1\"").body(body)
}

/// A host answers a GET well.
#[track_caller]
fn answered(host: &Host, path: &str, response: Response) {
    assert_eq!(host.request(0, Request::get(path)).passed().respond(response).by, By::Upstream);
}

/// A host fails at a request; what its client gets.
#[track_caller]
fn failed(host: &Host, worker: usize, request: Request) -> Answer {
    host.request(worker, request).passed().respond(Response::status(503).header("set-cookie", "a=b").body("failed"))
}

/// A request whose host does not answer, at once or because the breaker is open.
fn down(host: &Host, worker: usize, request: Request) -> Answer {
    match host.request(worker, request) {
        Exchange::Passed(pending) => pending.local(Local::connect_failure()),
        Exchange::Answered(answer) => answer,
    }
}

fn says(answer: &Answer) -> String {
    answer.header("x-holdfast-fallback").unwrap_or_default()
}

#[test]
fn a_failure_is_answered_with_what_the_same_get_was_answered_last() {
    let host = keeping("{}").workers(2).start();
    answered(&host, "/a?x=1", good("old"));
    answered(
        &host,
        "/a?x=1",
        good("new").header("cache-control", "max-age=60").header("x-envoy-upstream-service-time", "7"),
    );
    host.advance(seconds(12));
    for worker in [0, 1] {
        let answer = failed(&host, worker, Request::get("/a?x=1"));
        assert_eq!((answer.by, answer.status, answer.text().as_str()), (By::Holdfast, 200, "new"), "{answer:?}");
        assert_eq!(says(&answer), "stale; reason=failure; policy=orders; age=12");
        let header = |name: &str| answer.header(name);
        assert_eq!(header("age").as_deref(), Some("12"));
        assert_eq!(header("content-type").as_deref(), Some("text/x-own"));
        assert_eq!(header("etag").as_deref(), Some("\"v1\""));
        assert_eq!(header("cache-control").as_deref(), Some("max-age=60"), "its own");
        assert_eq!((header("set-cookie"), header("retry-after")), (None, None));
        assert_ne!(header("x-envoy-upstream-service-time").as_deref(), Some("7"), "that is Envoy's own");
        let log = "policy=orders; key=all; decision=fallback; reason=failure; kind=stale; age=12";
        assert_eq!(answer.access_log.as_deref(), Some(log));
    }
    assert_eq!((count(&host, "fallback.stale"), count(&host, "fallback_failed.stale")), (2, 0));
    assert_eq!(count(&host, "failure"), 2, "they are failures all the same");
    for other in ["/a", "/a?x=2", "/A?x=1"] {
        let answer = failed(&host, 0, Request::get(other));
        assert_eq!((answer.status, says(&answer).as_str()), (418, "static; reason=failure; policy=orders"), "{other}");
        let log = answer.access_log.unwrap();
        assert!(log.ends_with("kind=static; failed=stale:nothing_kept"), "{log}");
        host.advance(seconds(61));
        answered(&host, "/other", good(""));
    }
    assert_eq!(count(&host, "fallback_failed.stale"), 3);
    host.assert_no_trap();
}

#[test]
fn while_the_breaker_is_open_it_is_served_until_it_is_too_old() {
    let host = keeping(r#"{"max_age":"20s"}"#).start();
    answered(&host, "/a", good("kept"));
    trip(&host, 0);
    host.advance(seconds(20));
    let answer = host.request(0, Request::get("/a")).answered();
    assert_eq!((answer.status, answer.text().as_str()), (200, "kept"));
    assert_eq!(says(&answer), "stale; reason=open; policy=orders; age=20");
    assert_eq!(answer.header("cache-control"), None, "nothing keeps a cache in front from it");
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(answer.details, "holdfast_open");
    host.advance(seconds(1));
    let answer = host.request(0, Request::get("/a")).answered();
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (418, true));
    assert!(answer.access_log.unwrap().ends_with("; reason=open; kind=static; failed=stale:too_old"));
    host.assert_no_trap();
}

#[test]
fn an_answers_own_limit_is_obeyed() {
    let host = keeping("{}").start();
    let with = |control: &str| good(control).header("cache-control", control);
    for (path, control) in
        [("/a", "max-age=5, stale-if-error=5"), ("/b", "max-age=5, must-revalidate"), ("/c", "max-age=5")]
    {
        answered(&host, path, with(control));
    }
    let status = |path: &str| down(&host, 0, Request::get(path)).status;
    let at = |after: u64| {
        host.advance(seconds(after));
        ["/a", "/b", "/c"].map(status)
    };
    assert_eq!(at(4), [200, 200, 200], "fresh");
    assert_eq!(at(2), [200, 418, 200]);
    assert_eq!(at(5), [418, 418, 200]);
    host.assert_no_trap();
}

#[test]
fn head_conditions_and_ranges_are_answered_from_a_kept_get() {
    let host = keeping("{}").start();
    answered(&host, "/a", good("whole"));
    let ask = |request: Request| down(&host, 0, request);
    let head = ask(Request::new("HEAD", "/a"));
    assert_eq!((head.status, head.header("content-type").as_deref()), (200, Some("text/x-own")));
    assert_eq!(says(&head).split(';').next(), Some("stale"));
    let known = ask(Request::get("/a").header("if-none-match", "\"v0\", W/\"v1\""));
    assert_eq!((known.status, known.text().as_str()), (304, ""));
    assert_eq!((known.header("etag").as_deref(), known.header("content-type")), (Some("\"v1\""), None));
    let changed = ask(Request::get("/a").header("if-none-match", "\"v0\""));
    assert_eq!((changed.status, changed.text().as_str()), (200, "whole"));
    let range = ask(Request::get("/a").header("range", "bytes=0-1"));
    assert_eq!((range.status, range.text().as_str(), range.header("content-range")), (200, "whole", None));
    for request in [Request::new("POST", "/a"), Request::get("/a").body("a question")] {
        let other = ask(request);
        assert_eq!(other.status, 418);
        assert!(other.access_log.unwrap().ends_with("failed=stale:method"));
    }
    host.assert_no_trap();
}

#[test]
fn nobody_gets_what_was_answered_to_somebody_else() {
    let document = document("{}", "").replace(r#""scope":[]"#, r#""scope":[{"header":"x-tenant"}]"#);
    let document = document.replace(r#""consecutive_failures":3"#, r#""consecutive_failures":100"#);
    let host = Host::with(&document).start();
    let ask = |request: Request, response: Response| {
        assert_eq!(host.request(0, request).passed().respond(response).by, By::Upstream);
    };
    let get = |path: &str, tenant: &str| Request::get(path).header("x-tenant", tenant);
    let kept = |request: Request| {
        let answer = down(&host, 0, request);
        (answer.status == 200).then(|| answer.text())
    };
    let some = |text: &str| Some(text.to_owned());
    // Scope.
    ask(get("/scope", "a"), good("a's"));
    assert_eq!((kept(get("/scope", "a")), kept(get("/scope", "b"))), (some("a's"), None));
    // Credentials.
    for (path, control, is_kept) in [
        ("/1", "max-age=60", false),
        ("/2", "public", true),
        ("/3", "s-maxage=60", true),
        ("/4", "max-age=60, must-revalidate", true),
        ("/5", "private, public", false),
        ("/6", "max-age=60, proxy-revalidate", false),
    ] {
        ask(get(path, "a").header("authorization", "Bearer a"), good(path).header("cache-control", control));
        assert_eq!(kept(get(path, "a")).is_some(), is_kept, "{control}");
    }
    // Cookies.
    for (path, name, value, is_kept) in [
        ("/c1", "x", "y", false),
        ("/c2", "cache-control", "public", true),
        ("/c3", "cache-control", "max-age=60", false),
    ] {
        ask(get(path, "a").header("cookie", "id=a"), good(path).header(name, value));
        assert_eq!(kept(get(path, "a").header("cookie", "id=b")).is_some(), is_kept, "{name}: {value}");
    }
    ask(get("/c4", "a").header("cookie", "id=a"), good("a's").header("vary", "cookie"));
    ask(get("/c4", "a").header("cookie", "id=b"), good("b's").header("vary", "cookie"));
    assert_eq!(kept(get("/c4", "a").header("cookie", "id=a")), some("a's"));
    assert_eq!(kept(get("/c4", "a").header("cookie", "id=b")), some("b's"));
    assert_eq!((kept(get("/c4", "a")), kept(get("/c4", "a").header("cookie", "id=c"))), (None, None));
    ask(get("/c5", "a"), good("with a cookie").header("set-cookie", "id=a"));
    assert_eq!(kept(get("/c5", "a")), None);
    // Vary, and a host that changes its mind about it.
    let vary = |names: &str, body: &str| good(body).header("vary", names);
    ask(get("/v", "a").header("accept-encoding", "gzip"), vary("Accept-Encoding", "zipped"));
    ask(
        get("/v", "a").header("accept-encoding", "br").header("x-lang", "de"),
        vary("accept-encoding, X-Lang", "deutsch"),
    );
    assert_eq!(kept(get("/v", "a").header("accept-encoding", "gzip")), some("zipped"));
    assert_eq!(kept(get("/v", "a").header("accept-encoding", "br").header("x-lang", "de")), some("deutsch"));
    assert_eq!(kept(get("/v", "a").header("accept-encoding", "br")), None);
    // Another authority, scheme or cluster is another resource.
    ask(get("/t", "a"), good("shop's"));
    assert_eq!(kept(get("/t", "a")), some("shop's"));
    assert_eq!(kept(get("/t", "a").header(":authority", "other.example")), None);
    assert_eq!(kept(get("/t", "a").header(":scheme", "https")), None);
    assert_eq!(kept(get("/t", "a").cluster("canary")), None);
    host.assert_no_trap();
}

#[test]
fn keys_that_share_the_overflow_key_keep_nothing() {
    let document = document("{}", "").replace(r#""scope":[]"#, r#""scope":[{"header":"x-tenant"}],"max_keys":1"#);
    let document = document.replace(r#""failure_rate":0"#, r#""failure_rate":50,"min_requests":1"#);
    let host = Host::with(&document).start();
    let get = |tenant: &str| Request::get("/a").header("x-tenant", tenant);
    for _ in 0..3 {
        host.request(0, get("first")).with(Response::status(503));
    }
    for tenant in ["b", "c"] {
        host.request(0, get(tenant)).passed().respond(good(tenant));
    }
    for tenant in ["b", "c"] {
        let answer = down(&host, 0, get(tenant));
        assert_eq!(answer.status, 418, "{}", answer.text());
        assert!(answer.access_log.unwrap().ends_with("failed=stale:overflow"));
    }
    host.assert_no_trap();
}

#[test]
fn what_may_not_be_kept_is_not_and_lies_break_nothing() {
    let host = keeping(r#"{"max_body":"1KiB"}"#).start();
    let long = "x".repeat(100_000);
    let control = |value: &str| good("").header("cache-control", value);
    let not_kept = [
        control("no-store"),
        control("private"),
        control("no-cache"),
        control("max-age=60").another("cache-control", "max-age=60"),
        control("max-age=-1"),
        control("max-age=60, max-age=1"),
        control(&long),
        good("").header("pragma", "no-cache"),
        good("").header("vary", "*"),
        good("").header("vary", &long),
        good("").header("age", "-1"),
        good("").header("age", "99999999999999999999"),
        good("").header("age", "1").another("age", "1"),
        good("").header("date", "Sun, 07 Feb 2106 06:28:15 GMT"),
        good("").header("date", "yesterday"),
        good("").header("content-range", "bytes 0-1/2"),
        good("").header("x-bytes", b"\xff\xfe"),
        good("").header("x-long", &long),
        good(&"x".repeat(1025)),
        good("").header("content-length", "1025"),
        Response::status(206).body("part"),
        Response::status(404),
        Response::status(204).without_body(),
        Response::status(301),
    ];
    for (index, response) in not_kept.into_iter().enumerate() {
        let path = format!("/{index}");
        answered(&host, &path, response);
        assert_eq!(down(&host, 0, Request::get(&path)).status, 418, "answer {index}");
        host.advance(seconds(31));
        // The breaker has its say between them.
        for _ in 0..6 {
            host.request(0, Request::get("/well")).with(Response::status(404));
        }
    }
    answered(&host, "/long", good(&"y".repeat(1024)));
    assert_eq!(down(&host, 0, Request::get("/long")).body.len(), 1024, "as long as it may be");
    host.assert_no_trap();
}

#[test]
fn only_a_whole_answer_is_kept() {
    let host = keeping("{}").start();
    let begun = |path: &str| {
        let streaming = host.request(0, Request::get(path)).passed().headers(good(""));
        streaming.piece("one ");
        streaming.piece("two ");
        streaming
    };
    begun("/ends").ends();
    begun("/trailers").trailers(&[("x-sum", "1")]);
    begun("/breaks").breaks_off();
    begun("/left").client_leaves();
    let kept = |path: &str| {
        let answer = down(&host, 0, Request::get(path));
        (answer.status == 200).then(|| answer.text())
    };
    assert_eq!(kept("/ends").as_deref(), Some("one two more"));
    assert_eq!(kept("/trailers").as_deref(), Some("one two more"));
    assert_eq!((kept("/breaks"), kept("/left")), (None, None));
    let empty = good("").header("content-length", "0").without_body();
    host.advance(seconds(31));
    answered(&host, "/empty", empty);
    assert_eq!(kept("/empty").as_deref(), Some(""));
    host.assert_no_trap();
}

#[test]
fn a_piece_passes_as_it_comes() {
    let host = keeping("{}").start();
    let streaming = host.request(0, Request::get("/a")).passed().headers(good(""));
    streaming.piece("one");
    assert!(!streaming.is_held() && !streaming.is_replaced());
    assert_eq!(streaming.ends().text(), "onemore");
    host.assert_no_trap();
}

#[test]
fn the_oldest_gives_way_and_memory_has_its_bound() {
    let host = keeping(r#"{"entries":3,"max_body":"1KiB"}"#).workers(2).start();
    for path in ["/a", "/b", "/c", "/a", "/d"] {
        answered(&host, path, good(path));
        host.advance(millis(5));
    }
    let kept = |path: &str| down(&host, 1, Request::get(path)).status == 200;
    assert_eq!(["/a", "/b", "/c", "/d"].map(kept), [true, false, true, true]);
    host.advance(seconds(40));
    let body = "x".repeat(1024);
    let fill = |from: usize| {
        for number in from..from + 300 {
            let request = Request::get(&format!("/{number:04}"));
            host.request(number % 2, request).with(good(&body));
        }
        host.shared_size()
    };
    let full = fill(0);
    assert_eq!(fill(1000), full, "however many different answers there are");
    host.advance(seconds(2));
    assert_eq!(count(&host, "stale_answers"), 3);
    let bytes = count(&host, "stale_bytes");
    assert!((3 * 1024..3 * 1400).contains(&bytes), "{bytes}");
    host.assert_no_trap();
}

#[test]
fn a_thousand_updates_leave_memory_where_it_was() {
    let host = keeping(r#"{"entries":64,"max_body":"1KiB"}"#).start();
    let body = "x".repeat(1024);
    let fill = || {
        for number in 0..64 {
            host.request(0, Request::get(&format!("/{number}"))).with(good(&body));
        }
    };
    fill();
    let most = host.shared_size().1;
    for round in 0..40 {
        let entries = [8, 64][round % 2];
        host.update(&document(
            &format!(r#"{{"entries":{entries},"max_body":"1KiB","max_age":"{}s"}}"#, 60 + round),
            "",
        ))
        .unwrap();
        let answer = down(&host, 0, Request::get("/0"));
        assert_eq!(answer.status, 418, "another block begins with nothing");
        fill();
        host.advance(seconds(20));
        assert!(host.shared_size().1 < most * 5 / 2, "round {round}: {} of {most}", host.shared_size().1);
    }
    host.assert_no_trap();
}

#[test]
fn what_a_larger_block_has_left_is_given_up() {
    let host = keeping(r#"{"entries":64,"max_body":"1KiB"}"#).start();
    let body = "x".repeat(1024);
    let fill = |count: usize| {
        for number in 0..count {
            host.request(0, Request::get(&format!("/{number}"))).with(good(&body));
        }
    };
    fill(64);
    let large = host.shared_size().1;
    // Two blocks later the place is used again.
    for max_age in [61, 62, 63] {
        host.update(&document(&format!(r#"{{"entries":4,"max_body":"1KiB","max_age":"{max_age}s"}}"#), "")).unwrap();
        fill(32);
        host.advance(seconds(20));
    }
    let small = host.shared_size().1;
    assert!(small < large / 2, "{small} of {large}");
    host.assert_no_trap();
}

#[test]
fn an_edit_elsewhere_leaves_the_answers_alone() {
    let host = keeping("{}").start();
    answered(&host, "/a", good("kept"));
    host.update(&document("{}", r#""concurrency":{"max_requests":7},"#)).unwrap();
    assert_eq!(down(&host, 0, Request::get("/a")).text(), "kept");
    host.assert_no_trap();
}

#[test]
fn a_policy_that_only_pretends_keeps_and_counts() {
    let host = Host::with(&document("{}", r#""mode":"shadow","#)).start();
    answered(&host, "/a", good("kept"));
    let answer = failed(&host, 0, Request::get("/a"));
    assert_eq!((answer.by, answer.status), (By::Upstream, 503));
    failed(&host, 0, Request::get("/b"));
    assert_eq!((count(&host, "would_fallback.stale"), count(&host, "would_fallback.static")), (1, 1));
    failed(&host, 0, Request::get("/c"));
    let answer = host.request(0, Request::get("/a")).passed().respond(Response::status(200));
    assert_eq!(answer.by, By::Upstream, "its breaker would be open");
    assert_eq!((count(&host, "would_fallback.stale"), count(&host, "would_fallback.static")), (2, 2));
    host.assert_no_trap();
}

#[test]
fn without_any_entry_that_can_serve_the_answer_passes() {
    let text = document("{}", "")
        .replace("\"respond\":{\"status\":418,\"body\":\"nothing is kept\"}", "\"respond\":{\"status\":418}");
    let alone = text.split(",\n            {\"on\"").next().unwrap().to_owned() + "]}]}";
    let host = Host::with(&alone).start();
    let answer = failed(&host, 0, Request::get("/a"));
    assert_eq!((answer.by, answer.status, answer.text().as_str()), (By::Upstream, 503, "failed"));
    assert_eq!(
        answer.access_log.as_deref(),
        Some("policy=orders; key=all; decision=admitted; failed=stale:nothing_kept")
    );
    (0..2).for_each(|_| drop(failed(&host, 0, Request::get("/a"))));
    let answer = host.request(0, Request::get("/a")).answered();
    assert_eq!((answer.status, answer.header("x-holdfast-reject").is_some()), (503, true));
    let log = "policy=orders; key=all; decision=rejected; reason=open; failed=stale:nothing_kept";
    assert_eq!(answer.access_log.as_deref(), Some(log));
    host.assert_no_trap();
}

/// Two resources, which two workers keep and serve. Whoever gets a body gets that of what it asked for.
fn exchange_answers(host: &Host) {
    for round in 0..3 {
        for (worker, path) in [(0, "/a"), (1, "/b"), (1, "/a"), (0, "/b"), (0, "/c")] {
            let response = good(path).header("vary", "x-tenant");
            let exchange = host.request(worker, Request::get(path).header("x-tenant", path));
            let answer = match exchange {
                Exchange::Passed(pending) if round == 2 => pending.local(Local::connect_failure()),
                exchange => exchange.with(response),
            };
            if answer.status == 200 && !answer.text().is_empty() {
                assert_eq!(answer.text(), path, "{answer:?}");
            }
        }
        host.advance(seconds(1));
    }
}

#[test]
fn a_vm_may_die_at_any_host_call() {
    for nth in 0.. {
        let host = keeping(r#"{"entries":2}"#).workers(2).start();
        let first = host.calls(1);
        host.crash_at(1, move |call| call.before == first + nth);
        exchange_answers(&host);
        host.nothing_fails();
        let died = !host.is_alive(1);
        host.advance(seconds(60));
        for _ in 0..8 {
            host.request(0, Request::get("/a").header("x-tenant", "/a")).with(good("/a").header("vary", "x-tenant"));
            host.advance(seconds(1));
        }
        assert_eq!(down(&host, 0, Request::get("/a").header("x-tenant", "/a")).text(), "/a", "call {nth}");
        if !died {
            break;
        }
    }
}

#[test]
fn every_call_may_be_refused_once() {
    for nth in 0.. {
        let host = keeping(r#"{"entries":2}"#).workers(2).start();
        let first = host.calls(0);
        host.on_call(move |_, call| {
            // Where the body cannot be written over, what came passes under the new headers, as with any fallback.
            call.refused().filter(|_| call.before == first + nth && call.name != "set_buffer_bytes")
        });
        exchange_answers(&host);
        host.assert_no_trap();
        if host.calls(0) < first + nth {
            break;
        }
    }
}

#[test]
fn a_place_that_another_worker_has_taken_meanwhile_gives_nobody_anothers_answer() {
    let host = keeping(r#"{"entries":1}"#).workers(2).start();
    answered(&host, "/a", good("/a"));
    // Worker 1 has the place for /b, and worker 0 writes its answer there after all.
    let mut is_done = false;
    host.on_call(move |host, call| {
        if !is_done && call.writes("/item/") {
            is_done = true;
            host.request(1, Request::get("/b")).with(good("/b"));
        }
        None
    });
    answered(&host, "/a", good("/a"));
    host.nothing_fails();
    for path in ["/a", "/b"] {
        let answer = down(&host, 1, Request::get(path));
        assert!(answer.status == 418 || answer.text() == path, "{path}: {}", answer.text());
    }
    answered(&host, "/a", good("/a"));
    assert_eq!(down(&host, 0, Request::get("/a")).text(), "/a", "the next one mends it");
    host.assert_no_trap();
}

#[test]
fn whatever_stands_in_shared_data_is_no_answer_unless_it_is_the_right_one() {
    let host = keeping("{}").start();
    answered(&host, "/a", good("/a"));
    answered(&host, "/b", good("/b"));
    let keys: Vec<String> = host.shared_keys().into_iter().filter(|key| key.contains("/stale/")).collect();
    assert!(keys.len() == 3, "an index and two answers: {keys:?}");
    let items: Vec<_> = keys.iter().filter(|key| key.contains("/item/")).collect();
    let of_a = host.shared(items[0]).unwrap().0;
    host.put_shared(items[1], &of_a);
    assert_eq!(down(&host, 0, Request::get("/b")).status, 418, "an answer to something else, under its number");
    assert_eq!(down(&host, 0, Request::get("/a")).text(), "/a");
    for key in &keys {
        let bytes = host.shared(key).unwrap().0;
        for at in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            host.put_shared(key, &damaged);
            host.advance(millis(1));
            down(&host, 0, Request::get("/a"));
            host.put_shared(key, &damaged[..at]);
            down(&host, 0, Request::get("/a"));
        }
        host.put_shared(key, &bytes);
    }
    host.assert_no_trap();
}

#[test]
fn a_read_that_is_refused_is_no_answer() {
    let host = keeping("{}").start();
    answered(&host, "/a", good("kept"));
    host.on_call(|_, call| (call.name == "get_shared_data").then_some(Fault::Status(status::NOT_FOUND)));
    assert_eq!(down(&host, 0, Request::get("/a")).status, 418);
    host.nothing_fails();
    assert_eq!(down(&host, 0, Request::get("/a")).text(), "kept");
    host.assert_no_trap();
}
