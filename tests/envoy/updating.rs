//! What the tests of updates share: an Envoy of four workers whose document comes by a listener or by discovery, and how to know
//! that each worker has it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, EnvoyOptions, PATIENCE, Policy, Response, Scene, Update, attempt_seat_filter, eventually,
    holdfast_filter, upstream_codec, wasm_module,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// So many workers each Envoy here has.
pub const WORKERS: usize = 4;

/// Longer than the lease of a document that is gone, and than its listener drains.
pub const LAPSED: Duration = Duration::from_secs(22);

/// What the host may hold requests for.
pub const HELD: Duration = Duration::from_secs(600);

/// States of a breaker, as its gauge tells them.
pub const CLOSED: u64 = 0;
pub const HALF_OPEN: u64 = 1;
pub const OPEN: u64 = 2;
pub const RAMPING: u64 = 3;
pub const FORCED_OPEN: u64 = 4;
pub const FORCED_CLOSED: u64 = 5;

/// How a document comes to Envoy.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// In its listener, which is replaced. The one before it drains for so long.
    Listener(Duration),
    /// By the discovery of the filter. The listener stays.
    Discovery,
}

/// A listener that is soon gone. A connection is closed with the first answer while it drains, so this is the longest that a request
/// may take which is not to be cut off, on a machine that is slow as well.
pub const SHORT: Way = Way::Listener(Duration::from_secs(3));

/// A listener that goes on for as long as a test takes.
pub const LONG: Way = Way::Listener(Duration::from_secs(600));

/// An Envoy whose document can be replaced, in the listener `ingress`.
pub struct Updated {
    scene: Scene,
    pub way: Way,
    seat: Discovered,
}

impl Deref for Updated {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl Updated {
    pub async fn start(options: EnvoyOptions, way: Way, document: impl Into<Policy>) -> Self {
        let (seat, document) = (Discovered::new(), document.into());
        let options = options.concurrency(WORKERS as u32).policy(document.clone());
        let options = match way {
            Way::Listener(drain) => options.dynamic_listeners().drain_time(drain),
            Way::Discovery => {
                seat.write(filter(&document));
                let found = json!({"typed_config": null, "config_discovery": seat.source()});
                options.raw_seat(found).dynamic_listeners()
            }
        };
        let updated = Self { scene: Scene::with(options).await, way, seat };
        updated.is_in_force().await;
        updated
    }

    /// Replaces the document, and waits until each worker has the new one.
    pub async fn update(&self, document: impl Into<Policy>) {
        match self.way {
            Way::Listener(_) => {
                assert_eq!(self.scene.update_policy(document).await.unwrap(), Update::Accepted);
                self.is_in_force().await;
            }
            Way::Discovery => {
                let before = self.discovered().await;
                self.write(document);
                let more = || async { self.discovered().await > before };
                eventually(PATIENCE, more).await.unwrap_or_else(|_| panic!("it is taken over: {}", self.scene.log()));
            }
        }
    }

    /// The Envoy itself.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// The same for what else concerns listeners.
    pub async fn update_by(&self, change: impl FnOnce(EnvoyOptions) -> EnvoyOptions) {
        assert_eq!(self.scene.update(change).await.unwrap(), Update::Accepted);
        self.is_in_force().await;
    }

    /// Gives it a document by discovery, whatever becomes of it.
    pub fn write(&self, document: impl Into<Policy>) {
        self.seat.write(filter(&document.into()));
    }

    /// Gives it a document that it refuses, and what it says about that.
    pub async fn refuse(&self, document: impl Into<Policy>) -> String {
        let document = document.into();
        match self.way {
            Way::Listener(_) => match self.scene.update_policy(document).await.unwrap() {
                Update::Rejected(log) => log,
                Update::Accepted => panic!("a document was accepted that should not be"),
            },
            Way::Discovery => {
                let (refused, logged) = (self.refused().await, self.scene.log().len());
                self.write(document);
                let more = || async { self.refused().await > refused };
                eventually(PATIENCE, more).await.expect("it is refused");
                self.scene.log().get(logged..).unwrap_or_default().to_owned()
            }
        }
    }

    /// Gives it the document that it has. Envoy need not do anything about it.
    pub async fn repeat(&self, document: &Value) {
        match self.way {
            Way::Listener(_) => self.update(document).await,
            Way::Discovery => {
                let name = format!("{DISCOVERY}.update_success");
                let before = self.scene.stat(&name).await.unwrap();
                self.write(document);
                self.scene.wait_for_stat(&name, |count| count > before).await.unwrap();
            }
        }
    }

    /// A client on each worker whose connection began after the last update.
    pub async fn clients(&self) -> Vec<Client> {
        self.scene.workers(WORKERS).await.into_iter().map(|client| client.timeout(HELD)).collect()
    }

    /// Each worker counts each listener that it has taken up.
    async fn is_in_force(&self) {
        eventually(PATIENCE, || async {
            let stats = self.scene.stats_like("^listener_manager").await.unwrap();
            let of = |name: &str| stats.get(&format!("listener_manager.{name}")).copied().unwrap_or_default();
            let wanted = WORKERS as u64 * (of("listener_added") + of("listener_modified"));
            let taken = of("listener_create_success");
            if taken == wanted { Ok(()) } else { Err(format!("{taken} of {wanted} listeners of workers are there")) }
        })
        .await
        .unwrap();
    }

    /// How many documents came by discovery and were taken over by all workers. Envoy counts those that it refuses as loaded,
    /// too.
    async fn discovered(&self) -> u64 {
        let [loaded, failed] = ["config_reload", "config_fail"].map(|name| self.discovery(name));
        loaded.await.saturating_sub(failed.await)
    }

    async fn refused(&self) -> u64 {
        self.discovery("update_rejected").await
    }

    async fn discovery(&self, counter: &str) -> u64 {
        let name = format!("{DISCOVERY}.{counter}");
        let stats = self.scene.stats_like(&format!("^{name}$")).await.unwrap();
        stats.get(&name).copied().unwrap_or_default()
    }
}

fn filter(document: &Policy) -> Value {
    holdfast_filter(&wasm_module().unwrap(), document)
}

/// The counters of the discovery of the request seat.
const DISCOVERY: &str = "extension_config_discovery.http_filter.holdfast";

/// A filter that comes by discovery, from a file.
struct Discovered(TempDir);

impl Discovered {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("filter.json")
    }

    /// Where Envoy finds it, in place of its `typed_config`.
    fn source(&self) -> Value {
        let source = json!({"path_config_source": {"path": self.file()}, "resource_api_version": "V3"});
        let kinds = json!(["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]);
        json!({"config_source": source, "type_urls": kinds})
    }

    fn write(&self, mut filter: Value) {
        filter["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let fresh = self.0.path().join("fresh");
        fs::write(&fresh, json!({"resources": [filter]}).to_string()).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }
}

/// An attempt seat that comes by discovery.
pub struct AttemptSeat {
    seat: Discovered,
    count: AtomicU64,
}

impl AttemptSeat {
    pub fn new() -> Self {
        let seat = Self { seat: Discovered::new(), count: AtomicU64::new(0) };
        seat.write();
        seat
    }

    /// Merged into a cluster, brings it there.
    pub fn cluster(&self) -> Value {
        let filter = json!({"name": ATTEMPT, "config_discovery": self.seat.source()});
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        json!({"typed_extension_protocol_options": {options: {"http_filters": [filter, upstream_codec()]}}})
    }

    /// Another one of the same takes its place, on every worker.
    pub async fn replace(&self, scene: &Scene) {
        let name = format!("extension_config_discovery.upstream_http_filter.{ATTEMPT}.config_reload");
        let before = scene.stat(&name).await.unwrap();
        self.write();
        scene.wait_for_stat(&name, |count| count > before).await.unwrap();
    }

    /// Envoy takes over only what differs from what it has, so each has another name.
    fn write(&self) {
        let mut filter = attempt_seat_filter(&wasm_module().unwrap());
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        filter["name"] = json!(ATTEMPT);
        filter["typed_config"]["config"]["name"] = json!(format!("holdfast-{number}"));
        self.seat.write(filter);
    }
}

const ATTEMPT: &str = "holdfast-attempt";

/// Whether the breaker has answered, with a rejection or with a fallback.
pub fn is_rejected(response: &Response) -> bool {
    let begins = |name: &str, start: &str| response.header(name).is_some_and(|value| value.starts_with(start));
    begins("x-holdfast-reject", "open; ") || begins("x-holdfast-fallback", "static; reason=open; ")
}

/// Lets the host fail all that comes, until further notice.
pub fn fails(host: &Backend) {
    host.always(Action::status(500));
}

/// The names under which policies have metrics.
pub async fn names(scene: &Scene) -> BTreeSet<String> {
    let stats = scene.settled_stats(POLICY).await.unwrap();
    stats.keys().filter_map(|name| Some(name.strip_prefix(POLICY)?.split_once(";.;")?.0.to_owned())).collect()
}

/// A counter of the policy `orders` for the cluster of this name, over all names that its documents have had.
pub async fn of_all_names(scene: &Scene, counter: &str) -> u64 {
    let mut sum = 0;
    for name in names(scene).await {
        if name == "orders" || name.starts_with("orders~") {
            sum += scene.metric_now(&name, "cluster=orders", counter).await;
        }
    }
    sum
}

/// How the names of metrics with a policy begin.
const POLICY: &str = "wasmcustom.holdfast.policy=.=";
