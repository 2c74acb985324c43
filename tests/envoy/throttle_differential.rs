//! The throttle beside Envoy's own `admission_control`: the same settings, the same traffic, the same share rejected.
//!
//! Envoy's filter lets a worker know only its own requests and has one window for everything its listener serves, so here
//! is one worker, and each case has listeners and hosts of its own. With one request at a time to each, nothing is left to
//! chance but the two filters' dice: what a host answers depends on how many requests it has seen.

use std::time::{Duration, Instant};

use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Listener, Records, Route, Scene};
use serde_json::{Value, json};

/// Requests to each of the two filters in each case.
const REQUESTS: usize = 2000;

/// Long enough for nothing to leave it during a case. Both windows count in steps: Envoy's of a second, ours of a tenth
/// of it.
const WINDOW: Duration = Duration::from_secs(300);

/// A number counts as wrong when one so far out to its side is less probable than this: beyond five standard deviations
/// of a normal distribution. The bounds come from the exact distribution all the same, since a small mean has a long tail.
const TOO_IMPROBABLE: f64 = 2.9e-7;

/// One setting of both filters, and what their hosts deliver.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Percent of the requests that reach the host and succeed there.
    delivered: u64,
    success_rate: f64,
    aggression: f64,
    max_rejection: f64,
    min_rps: u32,
}

impl Case {
    const fn of(name: &'static str, delivered: u64) -> Self {
        Self { name, delivered, success_rate: 95.0, aggression: 1.0, max_rejection: 80.0, min_rps: 0 }
    }

    fn holdfast(&self, window: Duration) -> Listener {
        let policy = json!({"policies": [{
            "name": self.name,
            "scope": [],
            "throttle": {
                "window": format!("{}s", window.as_secs()),
                "success_rate": self.success_rate,
                "aggression": self.aggression,
                "max_rejection": self.max_rejection,
                "min_rps": self.min_rps,
            },
        }]});
        Listener::new(&self.of_holdfast()).route(Route::to("/", &self.of_holdfast())).policy(policy)
    }

    /// `envoy.extensions.filters.http.admission_control.v3.AdmissionControl`. Its default success criteria for HTTP are all
    /// statuses below 500.
    fn envoy(&self, window: Duration) -> Listener {
        let runtime = |key: &str, value: Value| json!({"runtime_key": format!("unset.{key}"), "default_value": value});
        let filter = json!({
            "name": "envoy.filters.http.admission_control",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
                "success_criteria": {},
                "sampling_window": format!("{}s", window.as_secs()),
                "aggression": runtime("aggression", json!(self.aggression)),
                "sr_threshold": runtime("sr_threshold", json!({"value": self.success_rate})),
                "rps_threshold": runtime("rps_threshold", json!(self.min_rps)),
                "max_rejection_probability": runtime("max_rejection", json!({"value": self.max_rejection})),
            },
        });
        Listener::new(&self.of_envoy()).route(Route::to("/", &self.of_envoy())).filter(filter)
    }

    fn of_holdfast(&self) -> String {
        format!("{}-holdfast", self.name)
    }

    fn of_envoy(&self) -> String {
        format!("{}-envoy", self.name)
    }

    /// How many of the first `admitted` requests succeed: evenly spread, so at any time as nearly the share as can be.
    fn successes(&self, admitted: u64) -> u64 {
        admitted * self.delivered / 100
    }

    /// The probability of a rejection after so many admitted requests. Written down from Envoy's
    /// `source/extensions/filters/http/admission_control/admission_control.cc`, not from our module: `n` and the
    /// successes are of admitted requests alone.
    fn rejection(&self, admitted: u64) -> f64 {
        if admitted / WINDOW.as_secs() < u64::from(self.min_rps) {
            return 0.0;
        }
        let (n, successes) = (admitted as f64, self.successes(admitted) as f64);
        let excess = ((n - successes * 100.0 / self.success_rate) / (n + 1.0)).max(0.0);
        excess.powf(1.0 / self.aggression).min(self.max_rejection / 100.0)
    }

    /// How probable each number of rejections is, exactly: the number admitted is a Markov chain, and this is its
    /// distribution after so many steps, read from the other end.
    fn rejections(&self, requests: usize) -> Distribution {
        let rejection: Vec<f64> = (0..requests as u64).map(|admitted| self.rejection(admitted)).collect();
        let mut admitted = vec![1.0];
        for _ in 0..requests {
            let mut next = vec![0.0; admitted.len() + 1];
            for (count, share) in admitted.iter().enumerate() {
                next[count] += share * rejection[count];
                next[count + 1] += share * (1.0 - rejection[count]);
            }
            admitted = next;
        }
        admitted.reverse();
        Distribution(admitted)
    }

    /// Nothing is rejected while the probability is zero, and the first rejection comes about as soon as it is not.
    fn begins_where_it_should(&self, records: &Records) {
        let (mut admitted, mut rejected, mut no_rejection_yet) = (0, 0, 1.0);
        for record in &records.0 {
            let probability = self.rejection(admitted);
            if record.status() == Some(503) {
                assert!(probability > 0.0, "{}: rejected after {admitted} that passed", self.name);
                rejected += 1;
            } else {
                admitted += 1;
                if rejected == 0 {
                    no_rejection_yet *= 1.0 - probability;
                }
            }
        }
        assert!(no_rejection_yet > TOO_IMPROBABLE, "{}: the first rejection comes too late", self.name);
    }

    async fn host(self) -> Backend {
        let host = Backend::start().await.unwrap();
        host.script(move |request| {
            if self.successes(request.index + 1) > self.successes(request.index) {
                Action::ok()
            } else {
                Action::status(500)
            }
        });
        host
    }
}

/// The probabilities of the numbers from 0.
struct Distribution(Vec<f64>);

impl Distribution {
    fn mean(&self) -> f64 {
        self.0.iter().enumerate().map(|(number, share)| number as f64 * share).sum()
    }

    /// The standard error: the standard deviation of the number.
    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let variance: f64 =
            self.0.iter().enumerate().map(|(number, share)| (number as f64 - mean).powi(2) * share).sum();
        variance.sqrt()
    }

    /// The probability of this number or one further out, to the nearer side.
    fn tail(&self, number: usize) -> f64 {
        let (below, above): (f64, f64) = (self.0[..=number].iter().sum(), self.0[number..].iter().sum());
        below.min(above)
    }

    /// The probability that of two such numbers the first is larger by `difference` or more.
    fn apart(&self, difference: usize) -> f64 {
        let mut below = 0.0;
        let mut apart = 0.0;
        for (number, share) in self.0.iter().enumerate().skip(difference) {
            below += self.0[number - difference];
            apart += share * below;
        }
        apart
    }
}

/// A case's two filters, each before a host of its own.
struct Pair {
    case: Case,
    holdfast: Backend,
    envoy: Backend,
}

impl Pair {
    async fn of(case: Case) -> Self {
        Self { case, holdfast: case.host().await, envoy: case.host().await }
    }

    fn add_to(&self, options: EnvoyOptions, window: Duration) -> EnvoyOptions {
        options
            .cluster(Cluster::new(&self.case.of_holdfast()).endpoint(self.holdfast.addr()))
            .cluster(Cluster::new(&self.case.of_envoy()).endpoint(self.envoy.addr()))
            .listener(self.case.holdfast(window))
            .listener(self.case.envoy(window))
    }

    /// The same traffic to both at the same time, to each one request after the other.
    fn drive(&self, scene: &Scene, requests: usize) -> impl Future<Output = (Records, Records)> + use<> {
        let holdfast = Client::http1(scene.listener(&self.case.of_holdfast()));
        let envoy = Client::http1(scene.listener(&self.case.of_envoy()));
        async move { tokio::join!(holdfast.drive(1, requests, "/"), envoy.drive(1, requests, "/")) }
    }
}

/// The hosts answer 200 or 500, so each 503 is a rejection; and the host has seen the rest.
fn rejected(records: &Records, host: &Backend) -> usize {
    assert_eq!(records.errors().count(), 0);
    let rejected = records.count(503);
    assert_eq!(host.requests(), (records.0.len() - rejected) as u64, "{:?}", records.statuses());
    rejected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_rejects_the_same_share_as_admission_control() {
    let cases = [
        Case::of("all", 100),
        Case::of("just_enough", 96),
        Case::of("nine_in_ten", 90),
        Case::of("half", 50),
        Case::of("a_fifth", 20),
        Case::of("none", 0),
        Case { success_rate: 80.0, aggression: 2.0, max_rejection: 50.0, ..Case::of("aggressive", 70) },
        Case { max_rejection: 100.0, ..Case::of("no_maximum", 10) },
        // 300 admitted requests in the window are one a second: the first 300 pass.
        Case { min_rps: 1, ..Case::of("above_a_trickle", 0) },
    ];
    let mut pairs = Vec::new();
    for case in cases {
        pairs.push(Pair::of(case).await);
    }
    let scene = Scene::with(
        pairs.iter().fold(EnvoyOptions::new().concurrency(1), |options, pair| pair.add_to(options, WINDOW)),
    )
    .await;

    // The pairs know nothing of each other: all at once.
    let start = Instant::now();
    let driven: Vec<_> = pairs.iter().map(|pair| tokio::spawn(pair.drive(&scene, REQUESTS))).collect();
    for (pair, driven) in pairs.into_iter().zip(driven) {
        let (by_holdfast, by_envoy) = driven.await.unwrap();
        assert!(start.elapsed() < WINDOW * 8 / 10, "too slow: the first requests leave the window");

        let case = pair.case;
        let holdfast = rejected(&by_holdfast, &pair.holdfast);
        let envoy = rejected(&by_envoy, &pair.envoy);
        let expected = case.rejections(REQUESTS);
        let numbers = format!(
            "{}, {} % delivered: the throttle rejects {holdfast}, admission_control {envoy}, expected are {:.1} +- {:.1}",
            case.name,
            case.delivered,
            expected.mean(),
            expected.deviation()
        );
        println!("{numbers}");
        assert!(expected.tail(envoy) > TOO_IMPROBABLE, "the formula is not admission_control's: {numbers}");
        assert!(expected.tail(holdfast) > TOO_IMPROBABLE, "the throttle does not follow the formula: {numbers}");
        assert!(expected.apart(holdfast.abs_diff(envoy)) > TOO_IMPROBABLE, "the two differ: {numbers}");

        case.begins_where_it_should(&by_envoy);
        case.begins_where_it_should(&by_holdfast);

        let of_envoy = format!("http.{}.admission_control.rq_rejected", case.of_envoy());
        assert_eq!(scene.stat(&of_envoy).await.unwrap(), envoy as u64);
        let counted = scene.metrics(case.name, "all").await;
        let count = |name: &str| counted.get(name).copied().unwrap_or_default();
        assert_eq!(count("requests"), REQUESTS as u64, "{counted:?}");
        assert_eq!(count("rejected.throttled"), holdfast as u64, "{counted:?}");
        let succeeded = case.successes(pair.holdfast.requests());
        assert_eq!((count("success"), count("success") + count("failure")), (succeeded, pair.holdfast.requests()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_forgets_as_admission_control_does() {
    let window = Duration::from_secs(2);
    let pair = Pair::of(Case::of("recovered", 0)).await;
    let scene = Scene::with(pair.add_to(EnvoyOptions::new().concurrency(1), window)).await;
    let (by_holdfast, by_envoy) = pair.drive(&scene, 300).await;
    for (records, host) in [(&by_holdfast, &pair.holdfast), (&by_envoy, &pair.envoy)] {
        assert!(rejected(records, host) > 150, "{:?}", records.statuses());
    }

    // Neither keeps an outcome longer than its window.
    tokio::time::sleep(window + Duration::from_millis(100)).await;
    for host in [&pair.holdfast, &pair.envoy] {
        host.reset_counters();
        host.always(Action::ok());
    }
    let (by_holdfast, by_envoy) = pair.drive(&scene, 100).await;

    for (records, host) in [(&by_holdfast, &pair.holdfast), (&by_envoy, &pair.envoy)] {
        assert_eq!(rejected(records, host), 0, "a success rate of 100 % with nothing before it");
    }
}
