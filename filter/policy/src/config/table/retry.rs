//! After what there is a retry, how long it waits, and how many all requests together may have.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::{Absent, Block, Form, Key, Kind, Text, Word};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=HOUR;

/// Retries.
pub static RETRY: Block = Block {
    keys: &[
        Key::new("max_retries", Kind::Whole(0..=20), Absent::Number(2.0))
            .does("How many attempts a request may have after its first. 0 is none.")
            .change(
                "Two hide most failures of single hosts. More help where many hosts fail at once, and cost time: raise \
                 `timeout` with it. In a cluster Envoy's own `max_retries` (3 at a time unless raised) limits them too.",
            )
            .envoy("`num_retries`, 1 unless set."),
        Key::new(
            "on",
            Kind::List { of: &Kind::OneOf(&[Kind::Word(&WORDS), Kind::Status]), empty: false, unique: false, most: None },
            Absent::Strings(&["connect-failure", "refused-stream", "reset", "gateway-error"]),
        )
        .limit("no word twice")
        .does("After which ends of an attempt there is another: Envoy's words, statuses and ranges of them.")
        .change(
            "Add `503` or `429` where the service means \"again\" by it; add gRPC's words for gRPC services. Do not add `5xx` \
             for a service that answers `500` to a bad request: each of them would be sent three times.",
        )
        .envoy("`retry_on`, `retriable_status_codes`."),
        Key::new(
            "methods",
            Kind::List { of: &Kind::String(Form::Method), empty: false, unique: true, most: Some(100) },
            // Those that RFC 9110, section 9.2.2, calls idempotent.
            Absent::Strings(&["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]),
        )
        .limit("none twice")
        .does(
            "Methods whose requests may be sent again although a host may have seen them. Other requests are retried only \
             while no host can have seen them, or with `idempotency_header`.",
        )
        .change(
            "Add `POST` for gRPC, whose requests are all `POST`, or where the service recognizes repeats by itself. Leave \
             `PUT` and `DELETE` out where they are not idempotent in your service.",
        )
        .envoy("none: a route retries every method, unless `retriable_request_headers` matches `:method`."),
        Key::new("idempotency_header", Kind::String(Form::HeaderName), Absent::String("idempotency-key"))
            .does("A request with this header may be sent again whatever its method.")
            .change("Name the header by which your services recognize repeats."),
        Key::new("per_try_timeout", Kind::Duration(TIMEOUT), Absent::Means(Text::new("no limit of its own")))
            .limit("at most `timeout`")
            .does(
                "How long one attempt may take, from when it has a connection: the wait for one ends with the cluster's \
                 `connect_timeout`. The wait before it does not count: where retries wait, an attempt that hangs is given up \
                 later by the longest wait of its request.",
            )
            .change(
                "Set it, somewhat above the slowest good response, where a host that hangs must not use up the time of the \
                 whole request. After it there is a retry if `on` has `5xx`, `gateway-error` or `reset`.",
            )
            .envoy("`per_try_timeout`."),
        Key::new("timeout", Kind::Duration(TIMEOUT), Absent::Means(Text::new("the route's time-out")))
            .does(
                "How long all attempts with their waits may take, from the end of the request. A client's own deadline binds \
                 retries too, where it comes earlier: `grpc-timeout` of gRPC, and `x-envoy-expected-rq-timeout-ms` of an Envoy \
                 that is the client.",
            )
            .change(
                "Set it to what clients wait for, or a little less. It should hold at least two attempts of \
                 `per_try_timeout`, else nothing is retried after one that hung.",
            )
            .envoy("a route's `timeout`, 15 s unless set."),
        Key::new("backoff", Kind::Object(&BACKOFF), Absent::Object)
            .does("How long a retry waits.")
            .envoy("`retry_back_off`. It cannot be replaced: the longer one of the two waits counts."),
        Key::new("retry_after", Kind::Object(&RETRY_AFTER), Absent::Object)
            .does("Whether a host's own wish when to come again is heard.")
            .envoy("`rate_limited_retry_back_off`."),
        Key::new("budget", Kind::Object(&BUDGET), Absent::Object)
            .does("How many retries all requests together may have.")
            .envoy("`circuit_breakers.thresholds.retry_budget`, a share of the requests in flight."),
        Key::new("skip_retries_of_retries", Kind::Boolean, Absent::Boolean(true))
            .does(
                "Whether a request that its client has sent before gets no retry: one with `x-envoy-attempt-count` above 1 (a \
                 proxy's retry) or `grpc-previous-rpc-attempts` above 0 (a gRPC client's own).",
            )
            .change(
                "Leave it on: three layers with two retries each make 27 attempts of one request. Switch it off where the \
                 proxy before this one retries for reasons of its own.",
            ),
        Key::new("hedge_on_per_try_timeout", Kind::Boolean, Absent::Boolean(false))
            .limit("`true` only with `per_try_timeout`")
            .does(
                "Whether an attempt that is too slow goes on beside its retry. The first good response counts. A host that asks \
                 for a wait or for no retry (`retry_after`) stops none in flight.",
            )
            .change(
                "Switch it on for idempotent reads whose latency matters more than the load: the slow attempt is not given \
                 up. Each hedge costs a token of the budget.",
            )
            .envoy("`hedge_policy.hedge_on_per_try_timeout`."),
        Key::mode("the policy's `mode`", "`shadow` to see in `would_retry` how many retries there would be."),
    ],
    not_yet: &[],
    about: Text::new(
        "Retries are decided here and executed by Envoy, which buffers and replays the body. There is no retry while the \
         breaker is not closed, none that would not fit into the time that is left, and none beyond the budget. The attempt \
         seat judges each attempt; without it Envoy goes by its words, and the budget is charged afterwards.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "retry": {
      "max_retries": 3,
      "on": ["connect-failure", "refused-stream", "gateway-error", 429],
      "per_try_timeout": "800ms",
      "timeout": "4s"
    }
  }]
}"#,
    ),
};

/// Ends of an attempt by the words of Envoy's `retry_on` and, from `cancelled` on, `retry_grpc_on`.
static WORDS: [Word; 16] = [
    Word::new("5xx", "Any status from 500 on, or no response."),
    Word::new("gateway-error", "502, 503, 504, or no response."),
    Word::new("reset", "No response: disconnect, reset, time-out of the attempt."),
    Word::new("reset-before-request", "No response, and nothing of the request had been sent."),
    Word::new("connect-failure", "No connection to the host."),
    Word::new("envoy-ratelimited", "A response with `x-envoy-ratelimited`."),
    Word::new("retriable-4xx", "409."),
    Word::new("refused-stream", "The host refused the stream (REFUSED_STREAM), so it has not seen the request."),
    Word::new(
        "retriable-status-codes",
        "The statuses that the route names, which Holdfast cannot see. It does not switch on the headers that the route names.",
    ),
    Word::new("retriable-headers", "The response headers that the route names, which Holdfast cannot see."),
    Word::new("http3-post-connect-failure", "No response over HTTP/3 after the connection stood."),
    Word::new("cancelled", "gRPC status CANCELLED in the headers."),
    Word::new("deadline-exceeded", "gRPC status DEADLINE_EXCEEDED in the headers."),
    Word::new("internal", "gRPC status INTERNAL in the headers."),
    Word::new("resource-exhausted", "gRPC status RESOURCE_EXHAUSTED in the headers."),
    Word::new("unavailable", "gRPC status UNAVAILABLE in the headers."),
];

/// How long a retry waits.
pub static BACKOFF: Block = Block {
    keys: &[
        Key::new(
            "base",
            Kind::Duration(MILLISECOND..=MINUTE),
            Absent::Duration(Duration::from_millis(25)),
        )
        .does("What the wait before the first retry is made of; it doubles with each further one.")
        .change(
            "Raise it where failures last longer than a few milliseconds, such as a host that restarts; lower it where \
             another host answers at once anyway.",
        )
        .envoy("`retry_back_off.base_interval`, 25 ms unless set."),
        Key::new(
            "max",
            Kind::Duration(MILLISECOND..=Duration::from_secs(300)),
            Absent::Duration(Duration::from_millis(250)),
        )
        .limit("at least `base`")
        .does("No wait is longer. The default is `base` where that is longer.")
        .change("Raise it with `max_retries` and `timeout`. An attempt that waits holds a connection.")
        .envoy("`retry_back_off.max_interval`, ten times the base unless set."),
        Key::new("jitter", Kind::Word(&JITTERS), Absent::String("full"))
            .does("How waits are spread, so that requests that failed together do not come again together.")
            .change("`full` suits most. `none` makes tests exact and brings requests back in step.")
            .envoy("none: it is always `full`."),
    ],
    not_yet: &[],
    about: Text::new("The wait before retry `n` is made of `min(base * 2^(n-1), max)`."),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "retry": {"backoff": {"base": "50ms", "max": "1s", "jitter": "equal"}}
  }]
}"#,
    ),
};

/// How waits are spread.
static JITTERS: [Word; 4] = [
    Word::new("full", "Anything from 0 to the wait."),
    Word::new("equal", "Half of the wait, and anything up to the other half on top: `w/2 + U[0, w/2)`."),
    Word::new("decorrelated", "`min(max, U[base, 3 * the wait before))`, where `base` stands before the first."),
    Word::new("none", "The wait itself."),
];

/// A host's own wish.
pub static RETRY_AFTER: Block = Block {
    keys: &[
        Key::new("honor", Kind::Boolean, Absent::Boolean(true))
            .does("Whether a retry on the same host waits as long as the host asks for, in place of its back-off.")
            .change("Switch it off where hosts send a fixed `Retry-After` that means nothing."),
        Key::new(
            "max",
            Kind::Duration(Duration::ZERO..=HOUR),
            Absent::Duration(Duration::from_secs(300)),
        )
        .does("A longer wish, or one that is longer than the time that is left, means no retry on that host.")
        .change(
            "Lower it to what a client can wait for: an attempt that waits holds a connection. `\"0s\"` means no retry where a \
             host asks for any wait.",
        )
        .envoy("`rate_limited_retry_back_off.max_interval`, 5 min unless set."),
    ],
    not_yet: &[],
    about: Text::new(
        "A response may say when to come again: `Retry-After` in seconds or as an HTTP date, or gRPC's \
         `grpc-retry-pushback-ms`, where a negative one, or one that is no number, means no retry. Of several lines of \
         `Retry-After` the first counts; several of the pushback mean no retry. A wait binds a retry on the same host, and every \
         retry while the cluster has no other host in. One that another host serves has its back-off. Heard only with an attempt \
         seat.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "retry": {"on": [429, 503], "retry_after": {"max": "2s"}, "timeout": "5s"}
  }]
}"#,
    ),
};

/// How many retries all requests together may have.
pub static BUDGET: Block = Block {
    keys: &[
        Key::new("ratio", Kind::Percent { min: 0 }, Absent::Number(20.0))
            .does("Retries for each hundred requests of the window.")
            .change(
                "It is how much an outage can add to the load: 20 means at most a fifth more. Lower it for a service without \
                 reserve; raise it where single hosts fail often and the others have room.",
            )
            .envoy("`retry_budget.budget_percent`, 20 % of the requests in flight."),
        Key::new("min_per_second", Kind::Number(0..=10_000), Absent::Number(10.0))
            .does("Retries per second on top, however few requests there are.")
            .change(
                "Without it a quiet service could retry nothing. Lower it for services with a few requests per second, where \
                 10 is more than all of them; 0 leaves the share alone.",
            )
            .envoy("`retry_budget.min_retry_concurrency`, 3 at a time."),
        Key::new(
            "window",
            Kind::Duration(SECOND..=Duration::from_secs(300)),
            Absent::Duration(Duration::from_secs(10)),
        )
        .does("How long a request's deposit lasts. `min_per_second` times this is the reserve that can be spent at once.")
        .change("Lengthen it where failures come in bursts: the retries of a quiet minute can then be spent in a bad second."),
    ],
    not_yet: &[],
    about: Text::new(
        "A token bucket over all workers: each request deposits `ratio`/100 of a token when it is sent, each retry withdraws \
         one. A spent budget stops new retries and cancels no attempt in flight. `ratio` and `min_per_second` may not both be \
         0. A limit per request multiplies the load of an outage; a share of all requests does not.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "retry": {"budget": {"ratio": 10, "min_per_second": 1, "window": "30s"}}
  }]
}"#,
    ),
};
