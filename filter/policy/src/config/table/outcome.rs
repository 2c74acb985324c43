//! What counts as a failure, as nothing, and as slow.

use core::time::Duration;

use super::{Absent, Block, Key, Kind, Text};

const HOUR: Duration = Duration::from_secs(3600);
const STATUSES: Kind = Kind::List { of: &Kind::Status, empty: true, unique: false, most: None };
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
        .does("From when a response is slow, counted to its headers. A slow response can be a success or a failure as well.")
        .change(
            "Set it to what your clients put up with, not to the usual latency, and give `breaker.slow_rate` with it. A \
             service that hangs often fails by being slow long before it answers with errors.",
        ),
    ],
    not_yet: &[],
    about: Text::new(
        "One set of rules for the breaker, its probes, the throttle, fallbacks and the hosts. A request is judged by `:status`, \
         a gRPC call by its status in headers or trailers, a gRPC-web call by its status in headers. Never an outcome: replies \
         of Holdfast or of other filters, direct responses, Envoy's own overflow, and a client that leaves.",
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
    ],
    not_yet: &[],
    about: Text::new("What is a failure. The defaults are server errors, as HTTP and gRPC tell them, and no response at all."),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "inventory",
    "outcome": {"failure": {"grpc_status": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", 13], "local": true}},
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
    "outcome": {"ignore": {"status": [401, 404], "grpc_status": ["NOT_FOUND"]}},
    "breaker": {}
  }]
}"#,
    ),
};
