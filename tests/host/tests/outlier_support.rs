//! A cluster whose hosts act by themselves, for the stories about ejection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::outlier::table::{HostTable, State};
use holdfast_engine::store::block::BlockKind;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Arrival, Builder, Host, Reaction, Request, Routed, Thread};

use crate::support::millis;

pub const FIVE: [&str; 5] = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080", "10.0.0.5:8080"];

/// The host that turns bad.
pub const BAD: &str = FIVE[0];

/// Where listings of hosts are read.
pub const ADMIN: &str = "envoy_admin";

/// A policy `orders` for the cluster `orders`, with these keys in its `outlier`.
pub fn ejecting(keys: &str) -> String {
    ejecting_and(keys, "")
}

/// As [`ejecting`], with further features.
pub fn ejecting_and(keys: &str, features: &str) -> String {
    let comma = if features.is_empty() { "" } else { "," };
    format!(
        r#"{{"policies":[{{"name":"orders","match":{{"cluster":["orders"]}},"outlier":{{{keys}}}{comma}{features}}}]}}"#
    )
}

/// A request that has come to a host.
#[derive(Debug, Clone)]
pub struct Came {
    pub at: Duration,
    pub host: String,
    pub thread: Thread,
    /// Whether the host could read which hosts others are, or that it is checked.
    pub is_marked: bool,
}

#[derive(Default)]
struct Inner {
    /// What hosts do that do not answer 200; `None`: nothing.
    users: BTreeMap<String, Option<Reaction>>,
    checks: BTreeMap<String, Option<Reaction>>,
    delay: Duration,
    listing: Option<Reaction>,
    came: Vec<Came>,
    checked: Vec<Came>,
    readings: usize,
}

/// What the hosts do, and what has come to them.
#[derive(Clone, Default)]
pub struct Backends(Rc<RefCell<Inner>>);

impl Backends {
    /// What a host does with users' requests and with checks.
    pub fn does(&self, host: &str, reaction: impl Into<Reaction>) {
        let reaction = reaction.into();
        self.serves(host, reaction.clone());
        self.0.borrow_mut().checks.insert(host.to_owned(), Some(reaction));
    }

    /// What a host does with users' requests.
    pub fn serves(&self, host: &str, reaction: impl Into<Reaction>) {
        self.0.borrow_mut().users.insert(host.to_owned(), Some(reaction.into()));
    }

    /// What a host does with checks.
    pub fn answers_checks(&self, host: &str, reaction: impl Into<Reaction>) {
        self.0.borrow_mut().checks.insert(host.to_owned(), Some(reaction.into()));
    }

    /// A host does nothing by itself.
    pub fn hangs(&self, host: &str) {
        self.0.borrow_mut().users.insert(host.to_owned(), None);
        self.0.borrow_mut().checks.insert(host.to_owned(), None);
    }

    /// A host answers 200 again.
    pub fn is_well(&self, host: &str) {
        self.0.borrow_mut().users.remove(host);
        self.0.borrow_mut().checks.remove(host);
    }

    /// All hosts are well.
    pub fn are_well(&self) {
        self.0.borrow_mut().users.clear();
        self.0.borrow_mut().checks.clear();
    }

    /// How long hosts that are well take.
    pub fn take(&self, delay: Duration) {
        self.0.borrow_mut().delay = delay;
    }

    /// What is answered to readings of the hosts.
    pub fn lists(&self, reaction: impl Into<Reaction>) {
        self.0.borrow_mut().listing = Some(reaction.into());
    }

    /// How often the hosts were read.
    pub fn readings(&self) -> usize {
        self.0.borrow().readings
    }

    /// The users' requests that have come to hosts, in order.
    pub fn came(&self) -> Vec<Came> {
        self.0.borrow().came.clone()
    }

    /// The checks that have come to hosts, in order.
    pub fn checked(&self) -> Vec<Came> {
        self.0.borrow().checked.clone()
    }

    /// How many users' requests have come to a host.
    pub fn at(&self, host: &str) -> usize {
        self.0.borrow().came.iter().filter(|came| came.host == host).count()
    }

    fn serve(&self, arrival: &Arrival<'_>) -> Option<Reaction> {
        let mut inner = self.0.borrow_mut();
        inner.came.push(came(arrival));
        let well = Reaction::from(200).after(inner.delay);
        inner.users.get(arrival.host).cloned().unwrap_or(Some(well))
    }

    fn answer(&self, arrival: &Arrival<'_>) -> Option<Reaction> {
        let mut inner = self.0.borrow_mut();
        if arrival.cluster == ADMIN {
            inner.readings += 1;
            return inner.listing.clone();
        }
        inner.checked.push(came(arrival));
        let well = Reaction::from(200).after(inner.delay);
        inner.checks.get(arrival.host).cloned().unwrap_or(Some(well))
    }
}

fn came(arrival: &Arrival<'_>) -> Came {
    let is_marked = arrival.header("x-holdfast-hosts").or(arrival.header("x-holdfast-heartbeat")).is_some();
    Came { at: arrival.at, host: arrival.host.to_owned(), thread: arrival.thread, is_marked }
}

/// An Envoy with the module, and the hosts.
pub struct World {
    pub host: Host,
    pub hosts: Backends,
    /// Which worker has the next request.
    turn: Cell<usize>,
}

impl World {
    /// The cluster `orders` with these hosts, balanced by `override_host`, with an attempt seat.
    pub fn start(document: &str, workers: usize, hosts: &[&str]) -> World {
        World::with(document, workers, hosts, Builder::attempt_seat)
    }

    /// As [`World::start`], but as `build` makes it.
    pub fn with(document: &str, workers: usize, hosts: &[&str], build: impl FnOnce(Builder) -> Builder) -> World {
        let backends = Backends::default();
        let (users, calls) = (backends.clone(), backends.clone());
        let builder = Host::with(document)
            .workers(workers)
            .override_host(hosts)
            .plain_cluster(ADMIN, &["127.0.0.1:9901"])
            .answering_tries(move |arrival| users.serve(arrival))
            .answering_calls(move |arrival| calls.answer(arrival));
        World { host: build(builder).start(), hosts: backends, turn: Cell::new(0) }
    }

    /// A GET that comes to the next worker.
    pub fn get(&self) -> Routed {
        self.send(Request::get("/"))
    }

    /// A request that comes to the next worker.
    pub fn send(&self, request: Request) -> Routed {
        let worker = self.turn.get();
        self.turn.set((worker + 1) % self.host.workers());
        self.host.send(worker, request)
    }

    /// So many GETs to the workers in turn, one each `every`.
    pub fn traffic(&self, count: usize, every: Duration) -> Vec<Routed> {
        let one = |_| {
            let request = self.get();
            self.host.advance(every);
            request
        };
        (0..count).map(one).collect()
    }

    /// A GET each 20 ms for so long.
    pub fn traffic_for(&self, time: Duration) -> Vec<Routed> {
        let end = self.host.elapsed() + time;
        let mut requests = Vec::new();
        while self.host.elapsed() < end {
            requests.push(self.get());
            self.host.advance(millis(20).min(end - self.host.elapsed()));
        }
        requests
    }

    /// A GET each 20 ms until this holds; gives how many that took.
    #[track_caller]
    pub fn traffic_until(&self, most: usize, mut holds: impl FnMut(&World) -> bool) -> usize {
        for number in 0..most {
            if holds(self) {
                return number;
            }
            self.get();
            self.host.advance(millis(20));
        }
        panic!("it does not come to that within {most} requests; {:#?}", self.table());
    }

    /// The one table of hosts.
    #[track_caller]
    pub fn table(&self) -> HostTable {
        let mut tables = self.tables();
        assert!(tables.len() <= 1, "there are several: {tables:#?}");
        tables.pop().unwrap_or_default()
    }

    /// All tables of hosts that can be read.
    pub fn tables(&self) -> Vec<HostTable> {
        tables(&self.host)
    }

    /// The hosts that are out.
    #[track_caller]
    pub fn out(&self) -> Vec<String> {
        out(&self.table())
    }

    /// The hosts that are known.
    #[track_caller]
    pub fn known(&self) -> Vec<String> {
        let table = self.table();
        let mut known: Vec<String> = table.hosts().map(|(_, host)| text(&host.address)).collect();
        known.sort();
        known
    }

    /// A metric of the policy's one key.
    pub fn count(&self, metric: &str) -> u64 {
        self.host.metric_of("orders", "cluster=orders", metric)
    }

    /// Adds to a trace what the operator can count of hosts.
    pub fn note_metrics(&self, trace: &mut Trace) {
        trace.catch_up(&self.host);
        let names = ["hosts", "ejections", "would_eject", "readmitted", "probe_failed"];
        for (name, value) in self.host.metrics() {
            let Some(short) = name.strip_prefix("holdfast.policy=.=orders;.;key=.=cluster=orders;.;") else { continue };
            if value > 0 && names.iter().any(|name| short.starts_with(name)) {
                trace.line(format_args!("  {short} {value}"));
            }
        }
    }

    /// What must hold at the end of every story.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.host.assert_no_trap();
        let marked: Vec<_> =
            self.hosts.came().into_iter().chain(self.hosts.checked()).filter(|one| one.is_marked).collect();
        assert!(marked.is_empty(), "no host reads which others there are: {marked:?}");
    }
}

/// All tables of hosts that can be read, of blocks that have their places.
pub fn tables(host: &Host) -> Vec<HostTable> {
    let all = [2, 3].into_iter().flat_map(|parts| host.block_records::<HostTable>(BlockKind::Outlier, parts));
    all.map(|(_, table)| table).collect()
}

/// The hosts of a table that are out.
pub fn out(table: &HostTable) -> Vec<String> {
    let out = table.hosts().filter(|(_, host)| matches!(host.state, State::Out { .. }));
    out.map(|(_, host)| text(&host.address)).collect()
}

pub fn text(address: &[u8]) -> String {
    String::from_utf8_lossy(address).into_owned()
}

/// How many requests went to each host, by the last octet.
pub fn shares(requests: &[Routed]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for one in requests.iter().flat_map(Routed::tries) {
        *shares.entry(one.host).or_default() += 1;
    }
    shares
}

/// What clients got, by status.
pub fn statuses(requests: &[Routed]) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for request in requests {
        *statuses.entry(request.answer().status).or_default() += 1;
    }
    statuses
}
