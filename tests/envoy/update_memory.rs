//! A thousand updates, every second one refused, while 256 tenants have requests: no request is lost, what is open stays open,
//! and memory is in the end what it was in the middle.
//!
//! Each good update changes one feature's block, so that its state has another place in shared data, which Envoy never frees. A
//! place whose last user is gone is used again. So memory grows until there are places for the documents that live within one
//! lease (15 s), and then no more: the slope of the last half is that of updates whose documents differ in white space only.
//!
//! How many places are needed at most shows late where the machine is busy: then documents live longer at times. So the last half is
//! made anew a few times, until memory has stood still over one. Where each update leaves something it never does.
//!
//! A hundred good updates are made, or half of `HOLDFAST_UPDATES`. A thousand take some minutes for each way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{Action, Backend, Client, PATIENCE, Policy, Records, Template, Traffic, eventually, with_header};
use http::Request;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::outlying::{NOTICED, before, ms, start};
use crate::updating::{SHORT, Updated, WORKERS, Way};

/// As many as a policy has by itself (`max_keys`).
const TENANTS: u64 = 256;

/// Who has requests all the time.
const BUSY: u64 = 0;

/// Whose breaker opens before the first update.
const SHUT: u64 = 1;

const TENANT: &str = "x-tenant";

/// A request with it fails.
const FAILS: &str = "x-fails";

/// So many requests are under way on each worker's connection.
const SENDERS: usize = 8;

/// One request of so many is failed by its host, and retried.
const ONE_OF: u64 = 64;

/// The first half takes longer than a document that is gone counts as live (15 s), however many updates there are.
const LAPSED: Duration = Duration::from_secs(22);

/// Between two good updates, at least. How many documents live within a lease goes with how fast they come: so they do not come
/// the faster for a machine that has less to do in the second half.
const PACE: Duration = Duration::from_millis(240);

/// What a good update may add in the last half, in bytes that Envoy's allocator gives out. Envoy itself keeps 4.4 KB (1.40; 4.7
/// KB on 1.36): as much as with the white space, and as of a module that does nothing but tick. One that does not even tick
/// leaves 1.8 KB.
const MOST_ALLOCATED: f64 = 8192.0;

/// The same for resident memory, which is less even: with the white space it was 4 to 11 KB.
const MOST_RESIDENT: f64 = 16_384.0;

/// So often the last half is made anew.
const LAST_HALVES: u64 = 4;

/// What may still come in the last half of what all of them need once: bytes allocated, and resident. The fewer updates there
/// are the more this is for each.
const ONCE: [f64; 2] = [1e6, 5e6];

/// What a document's number changes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The block of one feature, of each in turn.
    Blocks,
    /// The white space.
    Spelling,
}

/// A document like no other of these.
fn document(change: Change, number: u64) -> Policy {
    let (blocks, spaces) = if change == Change::Blocks { (number, 0) } else { (0, number) };
    // How often each of six in turn has changed by now.
    let [outcome, breaker, concurrency, throttle, retry, outlier]: [u64; 6] =
        std::array::from_fn(|turn| (blocks + 5 - turn as u64) / 6);
    let policy = json!({"policies": [{
        "name": "orders",
        "scope": [{"header": TENANT}],
        "outcome": {"slow_after": format!("{}ms", 60_000 + outcome)},
        "breaker": {
            "consecutive_failures": 3, "failure_rate": 0, "slow_rate": 100,
            "open_for": format!("{}s", 3600 + breaker), "open_max": "24h",
        },
        "concurrency": {"max_requests": 1000 + concurrency},
        "throttle": {"window": format!("{}ms", 30_000 + throttle), "max_rejection": 0},
        "retry": {"backoff": {"base": "1ms", "max": "2ms"}, "budget": {"window": format!("{}ms", 10_000 + retry)}},
        "outlier": {"consecutive_failures": 5, "max_ejection_time": format!("{}s", 300 + outlier)},
    }]});
    format!("{policy}{}", " ".repeat(spaces as usize)).into()
}

/// A wrong one.
fn wrong(number: u64) -> Policy {
    json!({"policies": [{"name": "orders", "breaker": {"failure_rate": 101 + number}}]}).into()
}

fn request(tenant: u64) -> Request<Bytes> {
    with_header(Client::request("/"), TENANT, tenant.to_string())
}

/// What came of requests: statuses of whole answers, or what was wrong with one.
type Answers = BTreeMap<String, u64>;

fn count(answers: &mut Answers, records: &Records) {
    for record in &records.0 {
        let what = match &record.outcome {
            Ok(response) => response.header("x-holdfast-reject").unwrap_or_else(|| response.status.to_string()),
            Err(error) => error.to_string(),
        };
        *answers.entry(what).or_default() += 1;
    }
}

/// One Envoy, its hosts, its clients, and what has been seen of them so far.
struct Story {
    way: Way,
    change: Change,
    hosts: [Backend; 2],
    failed: Arc<AtomicU64>,
    scene: Updated,
    /// One on each worker, in the workers' order.
    clients: Vec<Client>,
    answers: Answers,
}

impl Story {
    async fn begin(way: Way, change: Change) -> Self {
        let hosts: [Backend; 2] = start().await;
        let failed = Arc::new(AtomicU64::new(0));
        for host in &hosts {
            let failed = Arc::clone(&failed);
            host.script(move |seen| {
                let status = match seen.header(FAILS) {
                    Some(_) => 500,
                    None if (seen.index + 1).is_multiple_of(ONE_OF) => 503,
                    None => return Action::ok(),
                };
                failed.fetch_add(1, Ordering::Relaxed);
                Action::status(status)
            });
        }
        let first = document(change, 0);
        let options = before(&hosts, WORKERS as u32, json!({})).log_level("warning");
        let scene = Updated::start(options, way, first).await;
        let clients = scene.workers(WORKERS).await;
        let mut story = Self { way, change, hosts, failed, scene, clients, answers: Answers::new() };
        story.sweep().await;
        sleep(NOTICED).await;
        for _ in 0..3 {
            let failing = with_header(request(SHUT), FAILS, "yes");
            assert_eq!(story.clients[SHUT as usize % WORKERS].send(failing).await.unwrap().status, 500);
        }
        story.sweep().await;
        story
    }

    /// Each tenant has a request, always on the same worker: so each document leaves as much as any other.
    async fn sweep(&mut self) {
        let mut running = JoinSet::new();
        for (worker, client) in self.clients.iter().cloned().enumerate() {
            let of_worker = Template::new(move |number| request(number * WORKERS as u64 + worker as u64));
            running.spawn(async move { client.drive(SENDERS, TENANTS as usize / WORKERS, of_worker).await });
        }
        for records in running.join_all().await {
            count(&mut self.answers, &records);
        }
    }

    /// A wrong document, and a good one after it.
    async fn update(&mut self, number: u64) {
        self.scene.refuse(wrong(number)).await;
        self.scene.update(document(self.change, number)).await;
        if matches!(self.way, Way::Listener(_)) {
            // The others are on their way out with their listener.
            self.clients = self.scene.workers(WORKERS).await;
        }
    }
}

/// How much `value` rises with each step of the last half, by least squares.
fn slope(values: &[f64]) -> f64 {
    let half = &values[values.len() / 2..];
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (middle, mean_value) = ((half.len() - 1) as f64 / 2.0, mean(half));
    let (mut both, mut own) = (0.0, 0.0);
    for (at, value) in half.iter().enumerate() {
        let from_middle = at as f64 - middle;
        both += from_middle * (value - mean_value);
        own += from_middle * from_middle;
    }
    both / own
}

#[test]
fn a_slope_is_that_of_the_last_half() {
    let values: Vec<f64> = (0..20).map(|step| if step < 10 { 50.0 } else { f64::from(3 * step) }).collect();
    assert!((slope(&values) - 3.0).abs() < 1e-9);
    let saw: Vec<f64> = (0..20).map(|step| f64::from(step % 2)).collect();
    assert!(slope(&saw).abs() < 0.05);
}

async fn memory_stays_where_it_was(way: Way, change: Change) {
    let asked = std::env::var("HOLDFAST_UPDATES").ok().map(|text| text.parse().expect("HOLDFAST_UPDATES is a number"));
    let good: u64 = asked.unwrap_or(200_u64).max(20) / 2;
    let mut story = Story::begin(way, change).await;
    let client = match way {
        Way::Discovery => story.clients[BUSY as usize % WORKERS].clone(),
        // Over HTTP/1.1 a listener that drains closes a connection with an answer, and never between two of them.
        Way::Listener(_) => Client::http1(story.scene.addr()),
    };
    let traffic = Traffic::start(&[client], 2, ms(10), request(BUSY));

    let (mut allocated, mut resident) = (Vec::new(), Vec::new());
    let pace = (2 * LAPSED / good as u32).max(PACE);
    let mut pace = interval(if change == Change::Blocks { pace } else { ms(1) });
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let half = good / 2;
    let most = [MOST_ALLOCATED + ONCE[0] / half as f64, MOST_RESIDENT + ONCE[1] / half as f64];
    let (mut made, mut left) = (0, good);
    let growth = loop {
        for _ in 0..left {
            made += 1;
            pace.tick().await;
            story.update(made).await;
            story.sweep().await;
            allocated.push(story.scene.allocated_bytes().await.unwrap() as f64);
            resident.push(story.scene.resident_bytes().unwrap() as f64);
        }
        let last = |values: &[f64]| slope(&values[values.len() - good as usize..]);
        let growth = [last(&allocated), last(&resident)];
        println!("{way:?}, {change:?}: after {made} good updates {growth:?} bytes for each of the last {half}");
        if growth[0] < most[0] && growth[1] < most[1] || made >= good + LAST_HALVES * half {
            break growth;
        }
        left = half;
    };

    count(&mut story.answers, &traffic.stop().await);
    let [first, last] = [0, made as usize - 1].map(|at| (allocated[at] / 1e6, resident[at] / 1e6));
    println!("MB allocated and resident: {first:?}, {last:?}; {:?}", story.answers);
    assert!(growth[0] < most[0] && growth[1] < most[1], "{growth:?} bytes for each good update, {most:?} at most");

    let sweeps = made + 1;
    let rejected = story.answers.remove("open; policy=orders");
    let served = story.answers.remove("200").unwrap_or_default();
    assert_eq!(story.answers, Answers::new(), "no request is lost");
    assert_eq!(rejected, Some(sweeps), "the breaker that was open before the first update is open after the last");
    let at_hosts: u64 = story.hosts.iter().map(Backend::requests).sum();
    let failed = story.failed.load(Ordering::Relaxed);
    assert_eq!(at_hosts, served + failed, "each request is served once, and those that failed once more");
    assert!(failed > 3, "some were retried");
    let counted = r"^wasmcustom\.holdfast\.policy=\.=orders.*;\.;requests$";
    eventually(PATIENCE, || async {
        let counted: u64 = story.scene.stats_like(counted).await.unwrap().values().sum();
        let sent = served + sweeps + 3;
        if counted == sent { Ok(()) } else { Err(format!("{counted} requests are counted, {sent} were sent")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_by_discovery_leave_memory_where_it_was() {
    memory_stays_where_it_was(Way::Discovery, Change::Blocks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_by_listener_leave_memory_where_it_was() {
    memory_stays_where_it_was(SHORT, Change::Blocks).await;
}

/// What Envoy itself takes for an update, and how even its memory is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_document_in_other_words_leaves_memory_where_it_was() {
    memory_stays_where_it_was(Way::Discovery, Change::Spelling).await;
}
