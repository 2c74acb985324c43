//! What the client gets instead, by reason.

use core::time::Duration;

use super::{Absent, Block, Body, Form, Key, Kind, Names, Template, Text, Word};

/// An entry of the list of fallbacks.
pub static FALLBACK: Block = Block {
    keys: &[
        Key::new(
            "on",
            Kind::List { of: &Kind::Word(&REASONS), empty: false, unique: true, most: None },
            Absent::Required,
        )
        .limit("no reason twice, and none that the policy's features never give")
        .does("For which reasons the entry serves.")
        .change(
            "Several entries may differ by reason: a cached list while the breaker is open, a plain message after a failure.",
        ),
        Key::new("respond", Kind::Object(&RESPOND), Absent::Means(Text::new("the entry has `stale`, `route` or `call`")))
            .does("Answers with a fixed response.")
            .change("Give it last: it always can serve, so entries after it for the same reasons never do.")
            .envoy("`direct_response` of a route."),
        Key::new("stale", Kind::Object(&STALE), Absent::Means(Text::new("the entry has `respond`, `route` or `call`")))
            .limit("once in a policy")
            .does("Answers with the last good answer to the same request.")
            .change("Give it where an answer of some minutes ago is better than none, before a `respond` for all else.")
            .envoy("The `cache` filter, which does not serve what is stale."),
        Key::new("route", Kind::Object(&ROUTE), Absent::Means(Text::new("the entry has `respond`, `stale` or `call`")))
            .limit(
                "not for `no_host`; for `failure`, `timeout` and `retries_exhausted` the policy needs `retry` (which may have \
                 `max_retries` 0) without hedging and without `retriable-status-codes`, and for `timeout` its `per_try_timeout`",
            )
            .does(
                "Has another cluster serve the request, which streams both ways: before the first attempt, or as a further one after the \
                 last.",
            )
            .change("Give it where somebody else can do the same: a standby, a stable release, a replica for reads.")
            .envoy("An aggregate cluster, which goes by the health of hosts and by no rate of errors."),
        Key::new("call", Kind::Object(&CALL), Absent::Means(Text::new("the entry has `respond`, `stale` or `route`")))
            .limit("only for `failure`, `timeout`, `retries_exhausted` and `no_host`")
            .does("Repeats the request in another cluster while its failed answer is held back, and answers with what comes from there.")
            .change(
                "Give it where no route can be made to let a `route` choose, with Envoy before 1.39, and for `no_host`; else `route` is \
                 better, which streams.",
            ),
    ],
    not_yet: &[],
    about: Text::new(
        "An entry of the list of fallbacks, which has `respond`, `stale`, `route` or `call`. The first entry whose `on` names the reason, and that \
         can serve, serves; one that cannot gives way to the next. Its response carries \
         `x-holdfast-fallback: <kind>; reason=<reason>; policy=<name>`, where the kind is `static`, `stale`, `route` or `call`.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "recommendations",
    "breaker": {},
    "fallback": [
      {"on": ["open"], "respond": {"status": 200, "body": {"items": []}}},
      {"on": ["failure", "timeout"], "respond": {"status": 502, "body": "no recommendations: ${reason}"}}
    ]
  }]
}"#,
    ),
};

/// Why a fallback is asked for.
static REASONS: [Word; 7] = [
    Word::new("open", "The breaker has rejected the request."),
    Word::new("concurrency", "Too many requests were in flight."),
    Word::new("throttled", "The throttle has rejected the request."),
    Word::new("failure", "The final outcome is a failure. An entry for it serves the next three reasons as well."),
    Word::new("timeout", "No response came in time."),
    Word::new("retries_exhausted", "The final outcome is a failure, after at least one retry."),
    Word::new(
        "no_host",
        "The cluster had no host for the request: it has none, or Envoy's health checks and outlier detection have all out and its \
         panic threshold lets none of them be used.",
    ),
];

/// A fixed response.
pub static RESPOND: Block = Block {
    keys: &[
        Key::new("status", Kind::Whole(200..=599), Absent::Required)
            .does("The response's status.")
            .change(
                "200 where the body is as good as an answer, such as an empty list; 503 where the client should know. A client \
                 that retries by status does so for a fallback too.",
            )
            .envoy("`direct_response.status`."),
        Key::new(
            "headers",
            Kind::Headers { names: Names::Sent, of: &Kind::String(Form::HeaderValue(TEMPLATE)), most: 100 },
            Absent::Means(Text::new("none")),
        )
        .limit(
            "not `content-length`, `transfer-encoding`, those of the connection, `grpc-status` and `x-holdfast-*`; no variables in \
             `content-type`",
        )
        .does(
            "Header names and values. A value is a template, in which `$${` is a literal `${`. In what a variable inserts a control \
             byte becomes a space, and bytes that are not UTF-8 become U+FFFD; a value that comes out empty, or longer than 8 KiB, \
             is left out with its header. `retry-after` is added to a rejection unless it is given, and `cache-control: no-store` \
             unless `cache-control` or `expires` is given: no cache in front keeps what stands in for the service.",
        )
        .change("Give what your clients read."),
        Key::new(
            "body",
            Kind::Body(Body { bytes: 1024 * 1024, template: TEMPLATE }),
            Absent::Means(Text::new("none")),
        )
        .limit("none with status 204, 205 and 304")
        .does(
            "The body. A string is a template (`text/plain` unless `content-type` is given); any other JSON value is sent as \
             compact JSON (`application/json`), in which strings are templates and keys are not. `$${` is a literal `${`.",
        )
        .change(
            "Use a string with variables for messages to people, and a JSON value for programs: what is inserted there stays \
             within its string. In a string values of the request are escaped for a `content-type` of JSON, HTML or XML.",
        )
        .envoy("`direct_response.body`; `%...%` of `local_reply_config.body_format`."),
        Key::new("grpc_status", Kind::GrpcStatus, Absent::String("UNAVAILABLE"))
            .does("The status of the response to a gRPC request, which gets no body.")
            .change(
                "Clients retry `UNAVAILABLE` by themselves; take `RESOURCE_EXHAUSTED` or `FAILED_PRECONDITION` where they should \
                 not.",
            )
            .envoy("`local_reply_config`'s `grpc_status` mapping, from the HTTP status."),
    ],
    not_yet: &[],
    about: Text::new("A fixed response, made without the service."),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "breaker": {},
    "fallback": [{
      "on": ["open"],
      "respond": {
        "status": 503,
        "headers": {"content-type": "application/problem+json", "x-request-id": "${header.x-request-id}"},
        "body": {"title": "orders are closed", "detail": "${reason}", "instance": "${path}"},
        "grpc_status": "UNAVAILABLE"
      }
    }]
  }]
}"#,
    ),
};

/// The last good answer.
pub static STALE: Block = Block {
    keys: &[
        Key::new(
            "max_age",
            Kind::Duration(Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600)),
            Absent::Duration(Duration::from_secs(600)),
        )
        .does(
            "The oldest answer that is served, by its `age`. An answer's own `stale-if-error`, `must-revalidate`, \
             `proxy-revalidate` and `s-maxage` may limit it further.",
        )
        .change("As long as an old answer is better than none.")
        .envoy("`stale-if-error` of RFC 5861, which Envoy does not serve by."),
        Key::new("max_body", Kind::Size(1024..=1024 * 1024), Absent::Size(64 * 1024))
            .does("The longest body that is kept. A longer one passes and is not kept.")
            .change("Raise it where answers are longer; each worker holds a copy of each answer that passes meanwhile."),
        Key::new("entries", Kind::Whole(1..=1024), Absent::Number(128.0))
            .does(
                "The most answers that are kept for a key, over all workers. One more takes the place of the oldest. All keys \
                 together keep at most `max_keys` x `entries` x (`max_body` + 28 KiB).",
            )
            .change("As many as there are different resources, and values of what they vary by."),
    ],
    not_yet: &[],
    about: Text::new(
        "The last good answer to the same GET, kept as answers pass, in memory that all workers share. It is kept where it is a \
         success with status 200 that RFC 9111 lets a shared cache keep: no `no-store`, `private`, `no-cache`, `set-cookie` or \
         `vary: *`; with `authorization` in the request only if it is `public`, or has `s-maxage` or `must-revalidate`; with \
         `cookie` only if it is `public`, has `s-maxage`, or varies by `cookie`. It is found by cluster, scheme, authority, path, \
         query and what it varies by. It serves HEAD too, is 304 to a client that has it, and whole where a `range` is asked for. \
         Keys that share the overflow key keep nothing.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "catalogue",
    "breaker": {},
    "fallback": [
      {"on": ["open", "failure", "no_host"], "stale": {"max_age": "1h", "max_body": "256KiB", "entries": 300}},
      {"on": ["open", "failure", "no_host"], "respond": {"status": 503, "body": "no catalogue: ${reason}"}}
    ]
  }]
}"#,
    ),
};

/// Another cluster.
pub static ROUTE: Block = Block {
    keys: &[Key::new("cluster", Kind::String(Form::Cluster), Absent::Required)
        .limit("not the only one that the policy matches; no `*`")
        .does(
            "The name of the cluster that serves. A route must let the filter state `wasm.holdfast_route` choose it: one in \
             front of the usual one, or the cluster specifier of that one.",
        )
        .change("Name whoever can serve.")],
    not_yet: &["header"],
    about: Text::new(
        "Another cluster in place of the request's own. A policy that matches that cluster governs the request there, with its own \
         breaker, retries and hosts. An entry cannot serve, and gives way to the next one, where there is no such cluster or no host \
         in it, where the policy there rejects the request and has no fallback for that, where the request comes from there, and where \
         the route does not let the filter state choose. The answer carries \
         `x-holdfast-fallback: route; reason=<reason>; policy=<name>; cluster=<cluster>`.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": ["orders"]},
    "breaker": {"ramp": "10s"},
    "fallback": [
      {"on": ["open"], "route": {"cluster": "standby"}},
      {"on": ["open"], "respond": {"status": 503, "body": "neither orders nor its standby can serve"}}
    ]
  }]
}"#,
    ),
};

/// The same request again, in another cluster.
pub static CALL: Block = Block {
    keys: &[
        Key::new("cluster", Kind::String(Form::Cluster), Absent::Required)
            .limit("not the only one that the policy matches; no `*`")
            .does("The name of the cluster that is called. Which of its hosts serves is its own choice.")
            .change("Name whoever can serve the same requests."),
        Key::new(
            "timeout",
            Kind::Duration(Duration::from_millis(1)..=Duration::from_secs(60)),
            Absent::Duration(Duration::from_secs(1)),
        )
        .limit("not longer than `retry.timeout`")
        .does("How long the whole answer may take. The client has waited for the failed one already.")
        .change("As long as the other cluster's slowest good answers take."),
        Key::new("max_body", Kind::Size(1024..=1024 * 1024), Absent::Size(64 * 1024))
            .does(
                "The longest request body that is repeated. Bodies are copied as they pass, in each worker, while they may still be \
                 needed; a longer one passes and is not repeated.",
            )
            .change("Raise it where requests are longer."),
        Key::new("max_concurrent", Kind::Whole(1..=1024), Absent::Number(16.0))
            .does(
                "The most calls of the policy that each worker has under way, each of which holds an answer of up to 32 MiB in memory. One \
                 more is not made.",
            )
            .change("Lower it where the other cluster can bear less, and where its answers are large."),
    ],
    not_yet: &[],
    about: Text::new(
        "The same request again, in another cluster, in place of an answer that has failed. The client's path, headers and `Host` are \
         repeated as they came, before any rewriting by the route, but for those of a connection, those by which Envoy's router is told what to \
         do, and `x-holdfast-*`. Repeated is what may be sent twice: a request with one of `retry.methods` (without `retry` the idempotent \
         ones) or with `retry.idempotency_header`; and any that no host has seen. Not requests of gRPC, upgrades, and those whose body was \
         longer than `max_body`, was not complete when the answer came, or had trailers. An answer that `outcome.failure` names, none \
         in time, and one over 32 MiB give way to the next entry, and after the last to the service's own answer. Its trailers \
         are dropped. The policy of the other cluster, if it has one, does not govern the call; its attempt seat judges its hosts. It \
         carries `x-holdfast-fallback: call; reason=<reason>; policy=<name>; cluster=<cluster>`.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": ["orders"]},
    "breaker": {},
    "fallback": [
      {"on": ["failure", "timeout", "no_host"], "call": {"cluster": "standby", "timeout": "500ms"}},
      {"on": ["open", "failure", "timeout", "no_host"], "respond": {"status": 503, "body": "no orders: ${reason}"}}
    ]
  }]
}"#,
    ),
};

const TEMPLATE: Template = Template { variables: &VARIABLES, most: 64 };

/// What a template may insert.
static VARIABLES: [Word; 5] = [
    Word::new("${reason}", "Why the fallback serves, such as `open`."),
    Word::new("${policy}", "The policy's name."),
    Word::new("${retry_after}", "Whole seconds until the next probe; 0 where there is nothing to wait for."),
    Word::new("${path}", "The request's path with its query."),
    Word::new("${header.NAME}", "The request header `NAME`; nothing where it is absent."),
];
