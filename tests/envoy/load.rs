//! What is exact stays exact under load: four workers, a closed loop over a connection to each, and a host that fails and
//! recovers. Everything is counted at the host. Nothing here asks how fast it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, PATIENCE, Scene, alone, eventually};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

const WORKERS: usize = 4;

/// Senders on each worker's connection, and so the most requests that can be under way there.
const SENDERS: usize = 8;

const PROBES: u64 = 5;

/// Senders that go on until they are told to stop, each sending its next request when the last is answered.
struct Load {
    answered: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    senders: JoinSet<BTreeMap<String, u64>>,
}

impl Load {
    fn start(workers: &[Client]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut answered, mut senders) = (Vec::new(), JoinSet::new());
        for client in workers.iter().flat_map(|client| std::iter::repeat_n(client, SENDERS)) {
            let mine = Arc::new(AtomicU64::new(0));
            answered.push(Arc::clone(&mine));
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            senders.spawn(async move {
                let mut answers = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("/").await.expect("each request is answered whole");
                    let rejected = response.header("x-holdfast-reject");
                    let what = rejected.unwrap_or_else(|| response.status.to_string());
                    *answers.entry(what).or_default() += 1;
                    mine.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        Self { answered, stop, senders }
    }

    fn now(&self) -> Vec<u64> {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every request that is now under way has been answered.
    async fn turns_over(&self) {
        let before = self.now();
        let over = || self.now().iter().zip(&before).all(|(now, before)| now > before);
        eventually(PATIENCE, || async { over() }).await.expect("every sender gets an answer");
    }

    /// Waits for so many more answers.
    async fn goes_on(&self, count: u64) {
        let until = self.now().iter().sum::<u64>() + count;
        eventually(PATIENCE, || async { self.now().iter().sum::<u64>() >= until }).await.expect("the load goes on");
    }

    /// Lets each sender finish, and returns how many answers of each kind there were: rejections by their header, others
    /// by status.
    async fn stop(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = BTreeMap::new();
        for (what, count) in self.senders.join_all().await.into_iter().flatten() {
            *sum.entry(what).or_default() += count;
        }
        sum
    }
}

/// The breaker's transitions so far, as `closed -> open`.
fn transitions(scene: &Scene) -> Vec<String> {
    let states = |line: &String| line.split(": ").nth(1).unwrap().to_owned();
    scene.transitions("orders").iter().map(states).collect()
}

/// A host that is switched between well and ill under load, and what the log must tell by now.
struct Outage<'a> {
    scene: &'a Scene,
    host: &'a Backend,
    load: &'a Load,
    told: Vec<&'static str>,
}

impl Outage<'_> {
    async fn expect(&mut self, transition: &'static str) {
        self.told.push(transition);
        eventually(PATIENCE, || async { transitions(self.scene).len() >= self.told.len() }).await.expect(transition);
        assert_eq!(transitions(self.scene), self.told);
    }

    /// Fails until the breaker opens.
    async fn fail(&mut self) {
        self.host.always(Action::status(500));
        self.expect("closed -> open").await;
    }

    /// From the line that tells of the opening through half-open: only probes reach the host, and exactly so many.
    async fn probe(&mut self) {
        let (host, load) = (self.host, self.load);
        let at_the_line = host.requests();
        // What was let pass before the transition may still be on its way: one request of each sender at most.
        load.turns_over().await;
        let before = host.requests();
        assert!(before - at_the_line <= (WORKERS * SENDERS) as u64, "{} after the opening", before - at_the_line);
        assert_eq!(host.in_flight(), 0);
        assert_eq!(transitions(self.scene), self.told, "the open period is longer than a turn of all senders");
        host.hold();

        // A probe's line is in the log before the probe is at the host, so the host is asked first.
        loop {
            let seen = host.requests();
            if transitions(self.scene).len() > self.told.len() {
                break;
            }
            assert_eq!(seen, before, "while it is open nothing reaches the host");
            sleep(Duration::from_millis(5)).await;
        }
        self.expect("open -> half-open").await;

        eventually(PATIENCE, || async { host.requests() - before >= PROBES }).await.expect("all probes are sent");
        load.goes_on(1000).await;
        assert_eq!((host.requests() - before, host.in_flight()), (PROBES, PROBES), "exactly the probes");
        assert_eq!(transitions(self.scene), self.told, "nothing is judged before it is answered");
    }

    /// Answers the probes.
    async fn answer(&mut self, action: Action, transition: &'static str) {
        self.host.always(action);
        self.host.release_all();
        self.expect(transition).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_lets_nothing_pass_and_a_half_open_one_exactly_the_probes() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "breaker": {
            "window": "2s", "min_requests": 20, "failure_rate": 50,
            "open_for": "2s", "open_growth": 1, "open_jitter": 0,
            "half_open": {"probes": PROBES, "lease": "1h"},
        },
    }]});
    let scene = Scene::with(Scene::of(&host).concurrency(4).policy(policy)).await;
    let load = Load::start(&scene.workers(WORKERS).await);
    let mut outage = Outage { scene: &scene, host: &host, load: &load, told: Vec::new() };

    for round in 0..4 {
        load.goes_on(300).await;
        outage.fail().await;
        outage.probe().await;
        if round % 2 == 1 {
            outage.answer(Action::status(500), "half-open -> open").await;
            outage.probe().await;
        }
        outage.answer(Action::ok(), "half-open -> closed").await;
    }
    load.goes_on(300).await;
    let told = outage.told;

    let answers = load.stop().await;
    let metrics = scene.metrics("orders", "cluster=orders").await;
    println!("{answers:?} {metrics:?}");
    let of = |what: &str| answers.get(what).copied().unwrap_or_default();
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    assert_eq!(count("requests"), answers.values().sum::<u64>(), "each is counted once");
    assert_eq!((count("success"), count("failure"), count("ignored")), (of("200"), of("500"), 0));
    assert_eq!(count("rejected.open"), of("open; policy=orders"));
    assert_eq!(count("requests"), count("success") + count("failure") + count("ignored") + count("rejected.open"));
    assert_eq!(host.requests(), count("success") + count("failure"));
    assert_eq!(transitions(&scene), told);
    let opened = told.iter().filter(|transition| transition.ends_with("-> open")).count();
    assert_eq!(count("breaker_opened.failure_rate"), opened as u64);
    assert_eq!((count("breaker_state"), host.in_flight()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ceiling_is_never_exceeded_and_no_place_is_lost() {
    let _alone = alone().await;
    const LIMIT: u64 = 12;
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "concurrency": {"max_requests": LIMIT}}]});
    let scene = Scene::with(Scene::of(&host).concurrency(4).policy(policy)).await;
    let workers = scene.workers(WORKERS).await;
    // Different lengths and ends, so that places are taken and given back in every order.
    host.script(|request| match request.index {
        index if index % 97 == 96 => Action::reset(),
        index if index % 7 == 6 => Action::status(500),
        index => Action::ok().after(Duration::from_millis(index % 4)),
    });

    let load = Load::start(&workers);
    load.goes_on(15_000).await;
    let answers = load.stop().await;

    assert_eq!(host.max_in_flight(), LIMIT, "so many at once, and never one more");
    let metrics = scene.metrics("orders", "cluster=orders").await;
    println!("{answers:?} {metrics:?}");
    let of = |what: &str| answers.get(what).copied().unwrap_or_default();
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    // A 503 that is not a rejection is Envoy's, for a connection that the host reset.
    let (rejected, failed) = (of("concurrency; policy=orders"), of("500") + of("503"));
    assert_eq!(count("requests"), answers.values().sum::<u64>(), "each is counted once");
    assert_eq!((count("success"), count("failure"), count("ignored")), (of("200"), failed, 0));
    assert_eq!(count("rejected.concurrency"), rejected);
    assert_eq!(count("requests"), count("success") + count("failure") + rejected);
    assert_eq!(host.requests(), count("success") + count("failure"));

    host.reset_counters();
    host.hold();
    let load = Load::start(&workers);
    eventually(PATIENCE, || async { host.requests() >= LIMIT }).await.expect("every place has come back");
    load.goes_on(1000).await;
    assert_eq!((host.requests(), host.in_flight()), (LIMIT, LIMIT), "and there is no other");
    host.release_all();
    load.stop().await;
}
