//! What ejects a host, for how long, how many may be out, and where the hosts are known from.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::{Absent, Block, Form, Key, Kind, Names, Text, Word};

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const EJECTION: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(24 * 3600);

const ROW: RangeInclusive<u32> = 0..=1000;
/// Where a detector of failures in a row is given without a number, and that of any failures without being given.
const FIVE: Absent = Absent::Number(5.0);
const RUN: Kind = Kind::OneOf(&[Kind::Whole(ROW), Kind::Object(&CONSECUTIVE)]);
const VOLUME: Kind = Kind::Whole(1..=1_000_000);
const OFF: Absent = Absent::Means(Text::new("off"));

/// `mode` of a detector.
const MODE: Key = Key::mode(
    "`outlier.mode`",
    "`shadow` for a new detector beside proven ones: `ejections_detected.*` counts what it finds, and it ejects nobody.",
);

/// Ejection of hosts.
pub static OUTLIER: Block = Block {
    keys: &[
        Key::new("consecutive_failures", RUN, FIVE)
            .does(
                "Ejects after this many failures in a row, of any kind and over all workers. A success of any worker ends the \
                 row. 0 is off.",
            )
            .change(
                "Lower it where hosts fail altogether and each failure hurts; raise it where a host fails a part of its \
                 requests by nature, and leave such hosts to `failure_rate`.",
            )
            .envoy("`consecutive_5xx`, 5 unless set."),
        Key::new("consecutive_gateway_failures", RUN, Absent::Number(0.0))
            .does(
                "Ejects after this many gateway failures in a row: 502, 503, 504, gRPC's DEADLINE_EXCEEDED and UNAVAILABLE, and \
                 no response. 0 is off.",
            )
            .change(
                "Set it, lower than `consecutive_failures` or with that off, where a 500 is the application's fault and a 503 \
                 is the host's.",
            )
            .envoy("`consecutive_gateway_failure`."),
        Key::new("consecutive_local_failures", RUN, Absent::Number(0.0))
            .does("Ejects after this many attempts in a row without a response: connect failure, reset, time-out. 0 is off.")
            .change("Set it to 2 or 3 to be rid of a host that is gone sooner than of one that answers with errors.")
            .envoy("`consecutive_local_origin_failure`."),
        Key::new("failure_rate", Kind::Object(&FAILURE_RATE), OFF)
            .does("Ejects a host by its share of failures in one `interval`.")
            .change("Give it for hosts that fail some of their requests, which never fail five in a row.")
            .envoy("`failure_percentage_*`."),
        Key::new("success_rate", Kind::Object(&SUCCESS_RATE), OFF)
            .does("Ejects a host whose share of successes lies far below that of the others in one `interval`.")
            .change("Give it in clusters of many hosts, where the right share of failures is not known beforehand.")
            .envoy("`success_rate_*`."),
        Key::new("latency", Kind::Object(&LATENCY), OFF)
            .does("Ejects a host whose responses are far slower than those of its peers in one `interval`.")
            .change("Give it against the host that answers everything, late: no detector of failures finds it."),
        Key::new("heartbeat", Kind::Object(&HEARTBEAT), OFF)
            .does("Checks every host by requests of Holdfast's own, which eject it and let it back.")
            .change(
                "Give it where no user's request should be a probe, and where hosts with little traffic should be known to \
                 be well.",
            )
            .envoy("`health_checks`."),
        Key::new("interval", Kind::Duration(INTERVAL), Absent::Duration(Duration::from_secs(10)))
            .does("What the rates look at: whole intervals of the clock, the same for all workers.")
            .change(
                "Lengthen it until a host has `min_requests` outcomes in one; shorten it to find bad hosts sooner. The memory \
                 of ejections fades by one with each interval in which a host served successes.",
            )
            .envoy("`interval`, 10 s unless set."),
        Key::new(
            "base_ejection_time",
            Kind::Duration(EJECTION),
            Absent::Duration(Duration::from_secs(30)),
        )
        .does("How long the first ejection of a host lasts. The n-th lasts n times as long.")
        .change("Set it to the time in which hosts usually recover. A probe ends it, so that shorter is cheap.")
        .envoy("`base_ejection_time`, 30 s unless set."),
        Key::new(
            "max_ejection_time",
            Kind::Duration(EJECTION),
            Absent::Duration(Duration::from_secs(300)),
        )
        .limit("at least `base_ejection_time`")
        .does(
            "The longest ejection before jitter. The default is `base_ejection_time` where that is longer. The memory of \
             ejections ends one above those that make it.",
        )
        .change("Lower it to have repaired hosts back sooner, at the price of more probes that fail.")
        .envoy("`max_ejection_time`, 300 s unless set."),
        Key::new("ejection_jitter", Kind::Percent { min: 0 }, Absent::Number(10.0))
            .does("Up to this share of the time is added at random.")
            .change("Raise it where many hosts go out at once, so that they do not come back at once.")
            .envoy("`max_ejection_time_jitter`, a time, 0 unless set."),
        Key::new("max_ejected", Kind::Percent { min: 0 }, Absent::Number(50.0))
            .does("No more than this share of a cluster's known hosts is out, the candidate included.")
            .change(
                "Set it to what the others can carry: with 30, seven of ten hosts must bear the load. When all hosts fail, the \
                 rest of them bears everything, unless `panic_threshold` is passed.",
            )
            .envoy("`max_ejection_percent`, 10 % unless set."),
        Key::new("always_eject_one", Kind::Boolean, Absent::Boolean(true))
            .does("Whether one host may be out however small its cluster is.")
            .change("Switch it off for a cluster of two hosts of which one cannot carry everything.")
            .envoy("`always_eject_one_host`, off unless set."),
        Key::new("panic_threshold", Kind::Percent { min: 0 }, Absent::Number(50.0))
            .does("With a smaller share of hosts left than this, requests go to all hosts as if none were out.")
            .change(
                "Raise it where too few hosts would only be crushed. With `max_ejected` up to 50 a threshold of 50 is never \
                 passed. 0 steers past hosts that are out as long as one is left.",
            )
            .envoy("`healthy_panic_threshold`, 50 % unless set."),
        Key::new("probe", Kind::Object(&PROBE), Absent::Object)
            .does("How a host that was out is found to be well again."),
        Key::new("slow_start", Kind::Duration(Duration::ZERO..=HOUR), Absent::Duration(Duration::ZERO))
            .does("How long the share of a host that is back grows, from a tenth to all of it. `\"0s\"` gives it all at once.")
            .change("Set it for hosts that are slow or fail while they are cold.")
            .envoy("`slow_start_config.slow_start_window`."),
        Key::new(
            "hosts",
            Kind::List {
                of: &Kind::OneOf(&[Kind::String(Form::Host), Kind::Object(&HOST)]),
                empty: true,
                unique: true,
                most: Some(1000),
            },
            Absent::Strings(&[]),
        )
        .limit("none twice")
        .does(
            "Hosts that are known from the beginning and never forgotten, each an address, or an object where it has a weight, a \
             priority or a locality. Others are learned from traffic.",
        )
        .change(
            "List them where they are fixed: requests can then be steered from the first ejection on, and none goes \
             unsteered to find new ones.",
        )
        .envoy("`load_assignment`."),
        Key::new("discover", Kind::Object(&DISCOVER), Absent::Means(Text::new("hosts are learned from traffic")))
            .does("Where the hosts of the cluster can be read.")
            .change("Give it where hosts come and go: a new one is known at the next reading, one that left is forgotten.")
            .envoy("EDS; Holdfast reads what Envoy makes of it."),
        Key::new(
            "balance",
            Kind::OneOf(&[Kind::Word(&BALANCES), Kind::Object(&BALANCE)]),
            Absent::String("envoy"),
        )
        .limit("any but `envoy` needs `hosts` or `discover`")
        .does(
            "Which of the hosts that are in a request goes to. All but `envoy` choose it for every request, within the priority \
             that Envoy would choose from. It does nothing in `shadow`, and in a cluster with subsets nothing while no host is out.",
        )
        .change(
            "`{\"hash\": ...}` where sessions or caches live on hosts: a host that is out moves its own and no others. \
             `least_latency` or `least_request` where hosts are not equally fast. Else leave it to the cluster, which costs nothing.",
        )
        .envoy("`load_balancing_policy`, which `envoy` leaves in force."),
        Key::mode(
            "the policy's `mode`",
            "`shadow` to see in `would_eject.*` who would be out. It holds for every detector that has no mode of its own.",
        ),
    ],
    not_yet: &[],
    about: Text::new(
        "Judges the hosts of each cluster by their attempts, each by `outcome`, and steers requests past hosts that are out. A \
         host whose time is over is not simply back: it gets one probe (or its heartbeats), and is back or out by that. At \
         least one detector must be on, unless `mode` is `off`. Needs the attempt seat, and `override_host` in the cluster.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {
      "consecutive_failures": 3,
      "consecutive_local_failures": {"threshold": 2, "mode": "shadow"},
      "latency": {"deviation": 300},
      "base_ejection_time": "20s",
      "max_ejected": 30,
      "slow_start": "30s"
    }
  }]
}"#,
    ),
};

/// A host with what is known of it.
pub static HOST: Block = Block {
    keys: &[
        Key::new("address", Kind::String(Form::Host), Absent::Required)
            .does("The host, as a string in its place would name it.")
            .change("Take it from the cluster: hosts are told apart by addresses, not by names.")
            .envoy("`endpoint.address`."),
        Key::new("weight", Kind::Whole(1..=u32::MAX), Absent::Number(1.0))
            .does("Its share among the hosts of its locality.")
            .change("Set it as in the cluster.")
            .envoy("`load_balancing_weight`, 1 unless set."),
        Key::new("priority", Kind::Whole(0..=127), Absent::Number(0.0))
            .does(
                "Hosts of a higher number get what those of the lower ones cannot bear: a priority with less than 72 % of its hosts \
                 in passes a part on.",
            )
            .change("Set it as in the cluster; what stands by for others has 1.")
            .envoy("`priority`, 0 unless set."),
        Key::new("locality", Kind::String(Form::Cluster), Absent::Means(Text::new("all such hosts are in one")))
            .does(
                "Where it stands, by any name. The hosts of one priority and name share what their weights together give them, until \
                 less than 72 % of them are in.",
            )
            .change("Give it where the cluster weighs its localities: a host that is out is then replaced by its neighbours.")
            .envoy("`locality`, with `locality_weighted_lb_config`."),
    ],
    not_yet: &[],
    about: Text::new(
        "A host may be an object that says where it stands in its cluster, so that the others get what Envoy would give them while it \
         is out. Where `discover` lists it too, that says it.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {
      "hosts": [
        "10.0.0.1:8080",
        {"address": "10.0.0.2:8080", "weight": 3, "locality": "zone-b"},
        {"address": "10.1.0.1:8080", "priority": 1}
      ]
    }
  }]
}"#,
    ),
};

/// How hosts are chosen.
static BALANCES: [Word; 6] = [
    Word::new("envoy", "By the cluster's own load balancing; while hosts are out, each in turn by its weight."),
    Word::new("round_robin", "Each in turn, whatever its weight."),
    Word::new("random", "Any, all alike."),
    Word::new("weighted", "Each in turn by its weight, which `hosts` give or `discover` reads."),
    Word::new(
        "least_request",
        "Of two that are drawn by weight the one with fewer requests in flight of this worker for its weight.",
    ),
    Word::new(
        "least_latency",
        "Of two that are drawn by weight the one with the smaller product of its latency (the peak, then a mean that fades over 10 s, as \
         this worker sees it) and its requests in flight.",
    ),
];

/// How hosts are chosen, where that needs an object.
pub static BALANCE: Block = Block {
    keys: &[Key::new("hash", Kind::OneOf(&[Kind::Word(&HASHES), Kind::Object(&HASH)]), Absent::Required)
        .does(
            "Sends all requests that are alike in this to the same host, by rendezvous hashing: each host has a share of the values by its \
             weight, and one that comes or goes moves its own and no others. A request without it goes to any.",
        )
        .change("Take what names a session or what is cached.")
        .envoy("`hash_policy` with `maglev` or `ring_hash`, whose choice is lost while a host is out.")],
    not_yet: &[],
    about: Text::new("Beside a word `balance` may be an object that says what of a request chooses its host."),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": "orders"},
    "outlier": {
      "balance": {"hash": "source_ip"},
      "discover": {"cluster": "envoy_admin", "path": "/clusters?format=json"}
    }
  }]
}"#,
    ),
};

/// What a host can be chosen by that has no name.
static HASHES: [Word; 2] = [
    Word::new("source_ip", "The client's address as Envoy knows it, without the port."),
    Word::new("path", "The path without its query."),
];

/// What a host can be chosen by that has a name.
pub static HASH: Block = Block {
    keys: &[
        Key::new("header", Kind::String(Form::HeaderName), Absent::Means(Text::new("the cookie")))
            .does("The first value of this request header.")
            .change("Take a header that names the user or the session.")
            .envoy("`hash_policy.header`."),
        Key::new("cookie", Kind::String(Form::HeaderName), Absent::Means(Text::new("the header")))
            .does("The cookie of this name; none is made. Beside `header` it counts where the request has no such header.")
            .change("Take the session's cookie.")
            .envoy("`hash_policy.cookie`."),
    ],
    not_yet: &[],
    about: Text::new(
        "Beside the words `source_ip` and `path` a hash may be that of a header or of a cookie, one of which is given.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {"balance": {"hash": {"cookie": "session"}}, "hosts": ["10.0.0.1:8080", "10.0.0.2:8080"]}
  }]
}"#,
    ),
};

/// So many in a row.
pub static CONSECUTIVE: Block = Block {
    keys: &[
        Key::new("threshold", Kind::Whole(ROW), FIVE).does("Ejects after this many in a row. 0 is off.").change(
            "As for the number in place of the object. Leave it out to switch a detector on with this default.",
        ),
        MODE,
    ],
    not_yet: &[],
    about: Text::new(
        "A detector of failures in a row is a number, or an object where it is to have a mode of its own.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {"consecutive_failures": {"threshold": 7}, "consecutive_gateway_failures": {"mode": "shadow"}}
  }]
}"#,
    ),
};

/// A share of failures.
pub static FAILURE_RATE: Block = Block {
    keys: &[
        Key::new("threshold", Kind::PositivePercent, Absent::Number(85.0))
            .does("Ejects a host from this share of failures on.")
            .change("Lower it to be rid of hosts that fail less, well above what good hosts fail.")
            .envoy("`failure_percentage_threshold`, 85 unless set."),
        Key::new("min_requests", VOLUME, Absent::Number(50.0))
            .does("A host with fewer outcomes in the interval is not judged.")
            .change("Lower it, or lengthen `interval`, where hosts see less traffic.")
            .envoy("`failure_percentage_request_volume`, 50 unless set."),
        Key::new("min_hosts", Kind::Whole(1..=1000), Absent::Number(5.0))
            .does("With fewer hosts that have that many outcomes nobody is judged.")
            .change("Lower it for small clusters: 1 judges a host that is alone.")
            .envoy("`failure_percentage_minimum_hosts`, 5 unless set."),
        MODE,
    ],
    not_yet: &[],
    about: Text::new("Ejects a host by its share of failures in one interval, whatever the other hosts do."),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {"failure_rate": {"threshold": 40, "min_requests": 20, "min_hosts": 2}}
  }]
}"#,
    ),
};

/// A share of successes beside that of the others.
pub static SUCCESS_RATE: Block = Block {
    keys: &[
        Key::new("stdev_factor", Kind::Number(0..=10), Absent::Number(1.9))
            .does("Ejects a host whose share lies below the mean of all by more than this many standard deviations.")
            .change(
                "Lower it in small clusters: of `n` hosts none is more than the square root of `n - 1` deviations below the \
                 mean. Raise it where hosts differ by nature.",
            )
            .envoy("`success_rate_stdev_factor`, 1900 (thousandths) unless set."),
        Key::new("min_requests", VOLUME, Absent::Number(100.0))
            .does("A host with fewer outcomes in the interval is not judged.")
            .change("Lower it, or lengthen `interval`, where hosts see less traffic.")
            .envoy("`success_rate_request_volume`, 100 unless set."),
        Key::new("min_hosts", Kind::Whole(1..=1000), Absent::Number(5.0))
            .does("With fewer hosts that have that many outcomes nobody is judged.")
            .change("Keep it at 5 or above: a mean of few hosts says little.")
            .envoy("`success_rate_minimum_hosts`, 5 unless set."),
        MODE,
    ],
    not_yet: &[],
    about: Text::new(
        "Ejects hosts by comparison: those whose share of successes is below the mean minus `stdev_factor` population standard \
         deviations of all hosts that are in.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "search",
    "outlier": {"success_rate": {"stdev_factor": 1.5, "min_requests": 50}}
  }]
}"#,
    ),
};

/// Times beside those of the others.
pub static LATENCY: Block = Block {
    keys: &[
        Key::new("deviation", Kind::Whole(1..=100_000), Absent::Number(200.0))
            .does("Ejects a host that is slower than its peers by this many percent: 200 is three times as slow.")
            .change(
                "Lower it where several hosts are slow at once, which raises the mean that each is compared with. Raise it \
                 where hosts differ by nature.",
            ),
        Key::new("min_requests", VOLUME, Absent::Number(50.0))
            .does("A host with fewer good responses in the interval is not judged.")
            .change("Lower it, or lengthen `interval`, where hosts see less traffic; a mean of few says little."),
        // A host without peers has nothing to be compared with.
        Key::new("min_hosts", Kind::Whole(2..=1000), Absent::Number(3.0))
            .does("With fewer hosts that have that many nobody is judged.")
            .change("Lower it to 2 for a cluster of two hosts, each of which is then compared with the other."),
        Key::new(
            "floor",
            Kind::Duration(Duration::ZERO..=MINUTE),
            Absent::Duration(Duration::from_millis(20)),
        )
        .does("A host that is faster than this in the mean is not slow, whatever its peers are.")
        .change(
            "Set it to a latency that nobody minds: 3 ms against 1 ms is 200 % and no reason to eject.",
        ),
        Key::new("grace", Kind::Duration(Duration::ZERO..=HOUR), Absent::Duration(Duration::from_secs(30)))
            .does(
                "A host that arrives later than the others, or is back after it was out for anything else, is neither judged for so \
                 long nor compared with.",
            )
            .change(
                "Set it to the time that a new instance needs until it is as fast as the others: compiled code, filled caches and \
                 pools.",
            ),
        MODE,
    ],
    not_yet: &[],
    about: Text::new(
        "Compares the mean time P from a request's last byte to the headers of a host's good responses in one interval with \
         the mean E of its peers' means, the slowest host first: `(P - E) / E`. The difference must also be larger than \
         [chance explains](decisions.md#when-a-host-is-slow), so that equal hosts with a heavy tail stay in. A host that is out for it comes \
         back when 20 answers of probes are not slow, with a share that grows; until then it gets 3 % of what it would get, by \
         which a cold host can warm. Envoy's outlier detection has nothing like it.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "search",
    "outlier": {"latency": {"deviation": 150, "floor": "100ms", "min_requests": 30}}
  }]
}"#,
    ),
};

/// Checks by requests of our own.
pub static HEARTBEAT: Block = Block {
    keys: &[
        Key::new("path", Kind::String(Form::Path), Absent::String("/healthz"))
            .does("What is asked for, with `GET`.")
            .change("Name a path that fails when the host cannot serve users, and not only when its process is gone.")
            .envoy("`health_checks.http_health_check.path`."),
        Key::new("grpc", Kind::Object(&HEARTBEAT_GRPC), Absent::Means(Text::new("`path` is asked for")))
            .limit("not beside `path` or `status`")
            .does("Asks by the health check of gRPC in their place.")
            .change("Give it where hosts are servers of gRPC.")
            .envoy("`health_checks.grpc_health_check`."),
        Key::new("host", Kind::String(Form::Authority), Absent::Means(Text::new("the service's name")))
            .does(
                "The authority (`Host`) that is asked for. Without it that is the cluster's name; of Istio's clusters \
                 (`outbound|8080||orders.default.svc.cluster.local`) the service's name in it; and where a cluster's name is no valid \
                 host, the address of the host that is asked.",
            )
            .change("Give it where hosts, or proxies in front of them, serve by virtual hosts.")
            .envoy("`health_checks.http_health_check.host`, the cluster's name unless set."),
        Key::new(
            "headers",
            Kind::Headers { names: Names::Asked, of: &Kind::String(Form::Text { most: 4096 }), most: 16 },
            Absent::Means(Text::new("none")),
        )
        .limit(
            "not `host`, those of the body, of the connection and of gRPC, `x-envoy-*` and `x-holdfast-*`",
        )
        .does("Headers of the request. `user-agent` takes the place of `holdfast-heartbeat`.")
        .change(
            "Give what the path asks for, such as a token. Whoever can read Envoy's configuration, or this document, reads it too.",
        )
        .envoy("`health_checks.http_health_check.request_headers_to_add`."),
        Key::new("interval", Kind::Duration(INTERVAL), Absent::Duration(Duration::from_secs(1)))
            .does("How often each host is asked. At most 32 are asked at a time.")
            .change("Lengthen it for many hosts or a costly check; with `unhealthy_after` it is how soon a bad host is found.")
            .envoy("`health_checks.interval`."),
        Key::new(
            "timeout",
            Kind::Duration(MILLISECOND..=MINUTE),
            Absent::Duration(Duration::from_secs(2)),
        )
        .does("An answer that takes longer is bad.")
        .change("Set it above what a busy but well host takes: a heartbeat that fails under load takes hosts from the load.")
        .envoy("`health_checks.timeout`."),
        Key::new("unhealthy_after", Kind::Whole(1..=100), Absent::Number(3.0))
            .does("Ejects after this many bad answers in a row, within the limits of the block.")
            .change("Raise it where single checks get lost.")
            .envoy("`health_checks.unhealthy_threshold`."),
        Key::new("healthy_after", Kind::Whole(1..=100), Absent::Number(2.0))
            .does(
                "Lets a host back after this many good answers in a row; one that another detector ejected when its time is over \
                 as well.",
            )
            .change("Raise it for hosts that come and go while they start.")
            .envoy("`health_checks.healthy_threshold`."),
        Key::new(
            "status",
            Kind::List { of: &Kind::Status, empty: false, unique: false, most: None },
            Absent::Statuses(&[200..=299]),
        )
        .does("The statuses that are good.")
        .change("Name `200` alone where a redirect page or `204` means trouble; add `401` where the path needs a login.")
        .envoy("`health_checks.http_health_check.expected_statuses`, 200 unless set."),
        MODE,
    ],
    not_yet: &[],
    about: Text::new(
        "An active check: one worker sends a request to every known host through the cluster, for all workers. With a heartbeat \
         no user's request is a probe. Prefer it to Envoy's health checks, which `override_host` does not look at.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": "orders"},
    "outlier": {"heartbeat": {"path": "/ready", "interval": "2s", "timeout": "500ms", "status": [200]}}
  }]
}"#,
    ),
};

/// Checks by the health check of gRPC.
pub static HEARTBEAT_GRPC: Block = Block {
    keys: &[Key::new("service", Kind::String(Form::Text { most: 255 }), Absent::String(""))
        .does("The service that is asked about. An empty name asks about the server as a whole.")
        .change("Name it, with its package, where a server has several that fail by themselves.")
        .envoy("`health_checks.grpc_health_check.service_name`.")],
    not_yet: &[],
    about: Text::new(
        "Calls `grpc.health.v1.Health/Check` of every host. The answer `SERVING` is good. Bad are `NOT_SERVING` and every other \
         health status, a status of gRPC other than `OK` (`UNIMPLEMENTED` of a server without the service, `NOT_FOUND` of one that does \
         not know the name), an answer that is not gRPC, and one that is too late. The cluster must speak HTTP/2 to its hosts by \
         itself (`explicit_http_config` with `http2_protocol_options`, or `auto_config`). In one that speaks HTTP/1.1, or whatever the \
         client speaks (`use_downstream_protocol_config`), every check goes by HTTP/1.1 and is bad.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": "orders"},
    "outlier": {"heartbeat": {"grpc": {"service": "shop.Orders"}, "interval": "2s"}}
  }]
}"#,
    ),
};

/// Probes by users' requests.
pub static PROBE: Block = Block {
    keys: &[Key::new("requests", Kind::Whole(1..=100), Absent::Number(1.0))
        .does("How many requests a host gets when its time is over. All must succeed; the first failure ejects it again.")
        .change("Raise it for hosts that fail a part of their requests, which one request would miss. No effect beside a `heartbeat`.")],
    not_yet: &[],
    about: Text::new(
        "A probe is a user's request that names the host first. Requests that may be retried elsewhere go first, so that a \
         probe that fails is hidden from the user. Envoy lets a host back to its full load unprobed.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "outlier": {"failure_rate": {"threshold": 30}, "probe": {"requests": 5}}
  }]
}"#,
    ),
};

/// Where the hosts can be read.
pub static DISCOVER: Block = Block {
    keys: &[
        Key::new("cluster", Kind::String(Form::Cluster), Absent::Required)
            .does("The name of the cluster to ask.")
            .change("A cluster that you make for Envoy's admin interface, or for a service of your own."),
        Key::new("path", Kind::String(Form::Path), Absent::Required)
            .does(
                "What is asked for. `/clusters?format=json` of the admin interface says which hosts there are, their health, priorities and \
                 weights. `/config_dump?include_eds&resource=dynamic_endpoint_configs` (for a cluster of the bootstrap \
                 `static_endpoint_configs`) says what localities weigh, too; there hosts that drain count as unhealthy. Anything else answers \
                 `{\"clusters\": {\"orders\": [\"10.0.0.1:8080\"]}}`, with addresses or objects as in `hosts`.",
            )
            .change(
                "Take the dump for a cluster with `locality_weighted_lb_config`, and for no other: Holdfast goes by the weights that it \
                 reads there. Its name for the cluster must be the same in EDS. Add `&name_regex=orders` to it, which makes \
                 the answer short; to `/clusters`, from Envoy 1.38 on, `&filter=%5Eorders%24`.",
            ),
        Key::new("interval", Kind::Duration(INTERVAL), Absent::Duration(Duration::from_secs(5)))
            .does("How often it is read, by one worker for all.")
            .change("Shorten it where hosts come and go quickly; lengthen it where the listing is long."),
    ],
    not_yet: &[],
    about: Text::new(
        "Reads which hosts the cluster has and where they stand, so that those that are in get what Envoy would give them while others \
         are out: by priority, weight and health. Hosts that Envoy's listing calls unhealthy by its health checks, or draining, are \
         left out. If there is no answer, or none that lists a host of the cluster, those known stay.",
    ),
    example: Text::new(
        r#"{
  "policies": [{
    "name": "orders",
    "match": {"cluster": "orders"},
    "outlier": {"discover": {"cluster": "envoy_admin", "path": "/clusters?format=json", "interval": "2s"}}
  }]
}"#,
    ),
};
