//! The document, a policy, and what it governs.

use super::{
    Absent, BREAKER, Block, CONCURRENCY, FALLBACK, Form, Key, Kind, Names, OUTCOME, OUTLIER, RETRY, Segments, THROTTLE,
    Text, Word,
};

/// The whole document.
pub static DOCUMENT: Block = Block {
    keys: &[Key::new(
        "policies",
        Kind::List { of: &Kind::Object(&POLICY), empty: true, unique: false, most: Some(1000) },
        Absent::Required,
    )
    .does("The policies, in order. The first one whose `match` holds governs a request; a request that none matches passes through.")
    .change(
        "Put the narrow policies before the wide ones: a policy behind one that matches everything never governs a \
         request, and `./build.sh check` says so. `[]` is valid and lets everything pass, which takes Holdfast out of \
         the way without touching the filter chain.",
    )
    .envoy("none; the order of a virtual host's `routes` decides in the same way.")],
    not_yet: &[],
    about: Text::new(
        "A document is one JSON object. Envoy refuses a document that is wrong and goes on with the one before; every \
         error is reported at once.",
    ),
    example: Text::new(
        r#"{
  "policies": [
    {"name": "orders", "match": {"cluster": "orders"}, "breaker": {}},
    {"name": "the-rest", "concurrency": {"max_requests": 2000}}
  ]
}"#,
    ),
};

/// What a policy or a feature does.
pub(super) static MODES: [Word; 3] = [
    Word::new("enforce", "Decides, counts and acts."),
    Word::new("shadow", "Decides and counts (`would_reject.*`, `would_retry`, `would_eject.*`), and changes nothing."),
    Word::new("off", "Does nothing."),
];

/// A policy.
pub static POLICY: Block = Block {
    keys: &[
        Key::new("name", Kind::String(Form::Name { most: 63 }), Absent::Required)
            .limit("unique in the document")
            .does("The policy's name in metrics, response headers, log lines and the access log.")
            .change(
                "Choose it once: dashboards and alerts refer to it, and state follows the name, so a renamed policy starts \
                 with a closed breaker and an empty window. Two policies that are live side by side (two listeners) need \
                 names of their own.",
            )
            .envoy("`stat_prefix`."),
        Key::new("match", Kind::Object(&MATCH), Absent::Means(Text::new("every request")))
            .does("Which requests the policy governs.")
            .change(
                "Give it as soon as one filter chain serves more than one service: thresholds that suit one service are \
                 wrong for the next.",
            )
            .envoy("a route's `match`."),
        Key::new(
            "scope",
            Kind::List {
                of: &Kind::OneOf(&[Kind::Word(&SCOPES), Kind::Object(&SCOPE)]),
                empty: true,
                unique: true,
                most: Some(8),
            },
            Absent::Strings(&["cluster"]),
        )
        .limit("no part twice")
        .does(
            "What gets its own state within the policy. Each combination of the values is a key with a breaker, counts, a \
             budget and hosts of its own. `[]` is one state for the whole policy.",
        )
        .change(
            "Add `route` or `authority` where one cluster serves several APIs that fail apart from each other, and a header \
             where one tenant must not open the breaker of all. The finer the scope, the less traffic each key has: a key \
             that never sees `min_requests` never opens. Do not scope by values that clients can make up.",
        )
        .envoy("none; its outlier detection and circuit breakers are always per cluster."),
        Key::new("max_keys", Kind::Whole(1..=4096), Absent::Number(256.0))
            .does(
                "How many keys have a state at a time. A new key takes the slot of the one that is worth least; where none \
                 may go, new keys share the key `overflow`. It is also how many names get metric series in the life of \
                 the process.",
            )
            .change(
                "Raise it to the number of tenants or authorities that are really there. Lower it where a header has many \
                 values and the metrics system pays per series. A key costs about a kilobyte per worker.",
            ),
        Key::new("mode", Kind::Word(&MODES), Absent::String("enforce"))
            .does("Whether the policy acts. Each feature may have a mode of its own.")
            .change(
                "Begin with `shadow`: the metrics then say what would have been rejected, retried and ejected, and no client \
                 notices. `off` switches a whole policy off with one word and keeps later policies from its requests.",
            )
            .envoy("`enforcing_*` of `outlier_detection`, for hosts."),
        Key::new("outcome", Kind::Object(&OUTCOME), Absent::Object)
            .does("What counts as a failure, as nothing, and as slow, for every feature of the policy.")
            .change("Give it where a service's statuses mean something else than usual, or where slowness counts."),
        Key::new("breaker", Kind::Object(&BREAKER), OFF)
            .does("A circuit breaker for the service.")
            .change(
                "Give it where a service that fails should be left alone until it is well, and clients are better served by \
                 a quick answer than by a slow failure. `{}` is a breaker with its defaults.",
            )
            .envoy("none: Envoy's `circuit_breakers` are ceilings on concurrency, see `concurrency`."),
        Key::new("concurrency", Kind::Object(&CONCURRENCY), OFF)
            .does("A ceiling on requests in flight.")
            .change("Give it where a service that hangs must not pile up requests in the proxy.")
            .envoy("`circuit_breakers.thresholds.max_requests`."),
        Key::new("throttle", Kind::Object(&THROTTLE), OFF)
            .does("Adaptive throttling: rejects a growing share while too few requests succeed.")
            .change(
                "Give it where an overloaded service still does part of its work: it sheds what the service cannot take and \
                 lets the rest through, while a breaker lets nothing through.",
            )
            .envoy("the filter `admission_control`."),
        Key::new("retry", Kind::Object(&RETRY), OFF)
            .does("Retries, within a budget that all requests share. Needs the attempt seat to be exact.")
            .change(
                "Give it in place of a route's `retry_policy`: the budget keeps an outage from being multiplied, and only \
                 requests that may be sent twice are sent twice.",
            )
            .envoy("a route's `retry_policy`."),
        Key::new("outlier", Kind::Object(&OUTLIER), OFF)
            .does("Ejects single hosts and probes them before they are back. Needs the attempt seat and `override_host`.")
            .change("Give it where one bad host among many spoils the service, so that the breaker need not open for all.")
            .envoy("`outlier_detection`. Do not use both for one cluster."),
        Key::new(
            "fallback",
            Kind::List { of: &Kind::Object(&FALLBACK), empty: true, unique: false, most: None },
            Absent::Strings(&[]),
        )
        .does("What the client gets instead, by reason. The first entry whose `on` names the reason serves.")
        .change(
            "Give it where an empty list, a cached page or a clear message is better for clients than a `503`. Without an \
             entry a rejection is `503` with `retry-after` and `x-holdfast-reject`, and a host's failure passes as it is.",
        )
        .envoy("`local_reply_config`, which replaces Envoy's own replies and never a host's."),
    ],
    not_yet: &[],
    about: Text::new(
        "A policy says which requests it governs, what counts as a failure for them, and which features they get. A feature \
         that is not there is off.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": "orders"},
    "scope": ["cluster", {"header": "x-tenant"}],
    "max_keys": 500,
    "mode": "shadow",
    "breaker": {"min_requests": 50},
    "fallback": [{"on": ["open"], "respond": {"status": 503, "body": "orders are closed: ${reason}"}}]
  }]
}"#,
    ),
};

const OFF: Absent = Absent::Means(Text::new("off"));

pub(super) const WHOLE: Segments = Segments { separator: None, case: true };
const DOTTED: Segments = Segments { separator: Some(b'.'), case: false };
const SLASHED: Segments = Segments { separator: Some(b'/'), case: true };
const ANY: Absent = Absent::Means(Text::new("any"));

/// Which requests a policy governs.
pub static MATCH: Block = Block {
    keys: &[
        Key::new("cluster", Kind::Globs(WHOLE), ANY)
            .does("The upstream cluster's name.")
            .change(
                "The usual choice: a policy is about one service. In Istio names look like \
                 `outbound|80||orders.shop.svc.cluster.local`. A name without stars is found by a table, at no cost however \
                 many policies there are.",
            )
            .envoy("`route.cluster`, from the other side."),
        Key::new("route", Kind::Globs(WHOLE), ANY)
            .does("The route's name.")
            .change("Where one cluster serves routes that need thresholds or retries of their own.")
            .envoy("a route's `name`."),
        Key::new("authority", Kind::Globs(DOTTED), ANY)
            .does("The request's `:authority`, with its port if it has one, whatever its case. Segments end at a dot.")
            .change("At a gateway that serves many domains: `*.example.com` is one label, `**.example.com` any number.")
            .envoy("a virtual host's `domains`."),
        Key::new("path", Kind::Globs(SLASHED), ANY)
            .does("The request's path without its query. Segments end at a slash.")
            .change("To set apart what behaves differently, such as `/reports/**` with its long answers.")
            .envoy("`match.prefix`, `match.path_separated_prefix`, `match.path_match_policy` (URI template)."),
        Key::new("method", Kind::Globs(WHOLE), ANY)
            .does("The request's method, in the case it is sent in.")
            .change("To judge reads apart from writes.")
            .envoy("a header matcher on `:method`."),
        Key::new(
            "header",
            Kind::Headers { names: Names::Request, of: &Kind::String(Form::Glob(WHOLE)), most: 100 },
            Absent::Means(Text::new("any")),
        )
        .does("Header names and a glob on each value. All must hold; a header that is absent matches nothing.")
        .change("To begin with a part of the traffic, such as `{\"x-canary\": \"*\"}`.")
        .envoy("`match.headers`."),
    ],
    not_yet: &[],
    about: Text::new(
        "All keys that are given must hold; of a list of globs one must. In a glob `*` matches within a segment, `**` across \
         segments, and everything else itself.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "reports",
    "match": {"cluster": ["reports", "reports-*"], "path": "/v1/reports/**", "header": {"x-tenant": "a*"}},
    "breaker": {}
  }]
}"#,
    ),
};

/// Parts of a key that are a word.
static SCOPES: [Word; 3] = [
    Word::new("cluster", "The upstream cluster's name."),
    Word::new("route", "The route's name."),
    Word::new("authority", "The request's `:authority`, in lower case."),
];

/// A part of a key that is a header.
pub static SCOPE: Block = Block {
    keys: &[Key::new("header", Kind::String(Form::HeaderName), Absent::Required)
        .does("Each value of this request header gets its own state; requests without it share one.")
        .change(
            "For tenants or API versions that fail apart from each other. Take a header that the proxy sets or checks: a \
             client that makes up values costs each new one some ten to twenty calls of shared data.",
        )],
    not_yet: &[],
    about: Text::new(
        "Beside the words `cluster`, `route` and `authority` a part of `scope` may be an object that names a header.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "api",
    "scope": ["cluster", {"header": "x-tenant"}],
    "breaker": {"min_requests": 10}
  }]
}"#,
    ),
};
