//! What counts as a failure, as nothing, and as slow.

use core::time::Duration;

use super::policy::WHOLE;
use super::{Absent, Block, Form, Key, Kind, Names, Text, Word};

const HOUR: Duration = Duration::from_secs(3600);
const STATUSES: Kind = Kind::List { of: &Kind::Status, empty: true, unique: false, most: None };
const HEADERS: Kind = Kind::Headers { names: Names::Judged, of: &Kind::String(Form::Glob(WHOLE)), most: 100 };
const NO_HEADERS: Absent = Absent::Means(Text::new("none"));
const NOT_JUDGED: &str = "not `grpc-status`, those of the connection and `x-holdfast-*`";
const GRPC_STATUSES: Kind = Kind::List { of: &Kind::GrpcStatus, empty: true, unique: false, most: None };

/// What counts as what.
pub static OUTCOME: Block = Block {
    keys: &[
        Key::new("failure", Kind::Object(&FAILURE), Absent::Object)
            .does("What is a failure. A key that is given replaces its own default and leaves the others.")
            .change("Give it where a status that is an error elsewhere is normal for this service, or the reverse."),
        Key::new("ignore", Kind::Object(&IGNORE), Absent::Object)
            .does("What is neither a success nor a failure. It is looked at before `failure`.")
            .change(
                "Give it for answers that say nothing about the service's health: a `404` for a resource that is not there \
                 makes a failing service look well, because it counts as a success.",
            ),
        // Shorter times cannot be told from a request that is not slow.
        Key::new(
            "slow_after",
            Kind::Duration(Duration::from_millis(1)..=HOUR),
            Absent::Means(Text::new("nothing is slow")),
        )
        .does(
            "From when a response is slow, counted from the request's last byte to the response's headers: a client that \
             uploads slowly makes no service slow. A slow response can be a success or a failure as well.",
        )
        .change(
            "Set it to what your clients put up with, not to the usual latency, and give `breaker.slow_rate` with it. A \
             service that hangs often fails by being slow long before it answers with errors.",
        ),
        Key::new("client_gone", Kind::Word(&CLIENT_GONE), Absent::String("auto"))
            .does(
                "What a client stands for that leaves before the response's headers, for the breaker, its probes, the throttle and \
                 the hosts.",
            )
            .change(
                "Leave it at `auto`: where clients give up before any time-out of yours, a service that hangs has no other outcome \
                 than that they leave. Take `ignore` where clients come by deadlines that nobody can keep, or leave slow \
                 responses for reasons of their own.",
            ),
    ],
    not_yet: &[],
    about: Text::new(
        "One set of rules for the breaker, its probes, the throttle, fallbacks and the hosts. A request is judged by `:status`, \
         a gRPC call by its status in headers or trailers, a gRPC-web call by its status in headers, and all of them by the \
         response headers that `header` names. A response that the host breaks off after its headers is judged when it breaks. \
         A time-out of the route or the policy after the response's headers is nobody's failure: it ends a stream that may be \
         well. A stream whose headers are good and that has run for `breaker.half_open.lease` is a success to permits and \
         probes, whatever it ends with later, which counts then. A client that leaves is what `client_gone` says. Never an \
         outcome: replies of Holdfast or of other filters, direct responses, and Envoy's own overflow.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "search",
    "outcome": {"failure": {"status": ["500-599", 429]}, "ignore": {"status": [404]}, "slow_after": "800ms"},
    "breaker": {"slow_rate": 60}
  }]
}"#,
    ),
};

/// What a client that leaves stands for.
static CLIENT_GONE: [Word; 2] = [
    Word::new(
        "auto",
        "When its own deadline has passed (`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`) it is a time-out, after \
         `slow_after` a slow response, and otherwise nothing: clients that leave a service early say nothing about it.",
    ),
    Word::new("ignore", "It is never an outcome."),
];

/// What is a failure.
pub static FAILURE: Block = Block {
    keys: &[
        Key::new("status", STATUSES, Absent::Statuses(&[500..=599]))
            .does("HTTP statuses that are failures.")
            .change(
                "Add `429` where rejections by the service should open the breaker or start the throttle. Leave out `501`, as \
                 in `[500, \"502-599\"]`, where clients can cause it.",
            )
            .envoy(
                "`success_criteria.http_criteria` of `admission_control`; outlier detection takes 5xx only.",
            ),
        Key::new(
            "grpc_status",
            GRPC_STATUSES,
            Absent::Strings(&["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]),
        )
        .does(
            "gRPC statuses that are failures, for `application/grpc` and `application/grpc-web*`. A gRPC-web status that is not \
             in the headers stands in the body, which is not read: that response is judged by `status`.",
        )
        .change(
            "Add `RESOURCE_EXHAUSTED` where the service sheds load by it. Leave out `UNKNOWN` where the service uses it for \
             errors of the caller, and `DEADLINE_EXCEEDED` where clients set deadlines that nobody can keep.",
        )
        .envoy("`success_criteria.grpc_criteria` of `admission_control`."),
        Key::new("header", HEADERS, NO_HEADERS)
            .limit(NOT_JUDGED)
            .does(
                "Response headers and a glob on each value. A response with one of them is a failure, unless `ignore` names it. Of \
                 several lines of a header any may match. Trailers are not looked at. The request seat judges headers as the \
                 route leaves them (`response_headers_to_add`, `response_headers_to_remove`), the attempt seat as the host sends \
                 them.",
            )
            .change(
                "Give it where a service answers `200` and says in a header that it failed, such as `{\"x-app-error\": \"*\"}`. \
                 A fallback for `failure` replaces that response, too, and takes those headers out. A retry does not follow from \
                 it: `retry.on` goes by statuses and Envoy's words, of which `retriable-headers` asks for retries by the headers \
                 that the route lists.",
            )
            .envoy(
                "`outlier_detection.error_matcher` of `HttpProtocolOptions`, for hosts alone; `retriable_headers` of a route's \
                 `retry_policy`, for retries alone.",
            ),
        Key::new("local", Kind::Boolean, Absent::Boolean(true))
            .does(
                "Whether no response from the host is a failure: connect failure, reset, no healthy host, time-out. With \
                 `false` it is ignored.",
            )
            .change(
                "Leave it on unless the network between proxy and service is known to be worse than the service. With \
                 `false` a service that is down altogether opens no breaker.",
            )
            .envoy("`split_external_local_origin_errors` of `outlier_detection`."),
        Key::new("broken", Kind::Boolean, Absent::Boolean(true))
            .does(
                "Whether a response that the host breaks off after its headers is a failure. With `false` it counts as its headers \
                 say. It has gone on to the client by then: no fallback and no retry follows.",
            )
            .change(
                "Leave it on: a truncated response is of no use to most clients. Take `false` where hosts end streams by a reset \
                 as a matter of course.",
            ),
    ],
    not_yet: &[],
    about: Text::new(
        "What is a failure. The defaults are server errors, as HTTP and gRPC tell them, no response at all, and a response that \
         breaks off.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "inventory",
    "outcome": {"failure": {"grpc_status": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", 13], "header": {"x-app-error": "*"}}},
    "breaker": {}
  }]
}"#,
    ),
};

/// What is neither a success nor a failure.
pub static IGNORE: Block = Block {
    keys: &[
        Key::new("status", STATUSES, Absent::Statuses(&[]))
            .does("HTTP statuses that count as nothing.")
            .change("Name what clients cause in large numbers: `401`, `404`, `429` of a rate limit per client."),
        Key::new("grpc_status", GRPC_STATUSES, Absent::Strings(&[]))
            .does("gRPC statuses that count as nothing.")
            .change("Name what clients cause in large numbers: `NOT_FOUND`, `CANCELLED`, `UNAUTHENTICATED`."),
        Key::new("header", HEADERS, NO_HEADERS)
            .limit(NOT_JUDGED)
            .does(
                "Response headers and a glob on each value, as in `failure.header`. A response with one of them counts as nothing, \
                 whatever its status and its other headers.",
            )
            .change(
                "Name what shows that a response says nothing of the service: `{\"x-cache\": \"HIT*\"}` of a cache before it, \
                 `{\"x-maintenance\": \"*\"}` of one that is closed on purpose.",
            ),
    ],
    not_yet: &[],
    about: Text::new(
        "What is neither a success nor a failure. An ignored outcome of a probe returns its permit, so that another request \
         is the probe.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "accounts",
    "outcome": {"ignore": {"status": [401, 404], "grpc_status": ["NOT_FOUND"], "header": {"x-cache": "HIT*"}}},
    "breaker": {}
  }]
}"#,
    ),
};
