//! The clusters and how each chooses a host for an attempt.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::headers::Headers;
use crate::thread::Thread;

/// The header that names the hosts to take first, see [`crate::Builder::override_host`].
const OVERRIDE: &str = "x-holdfast-hosts";

/// Chooses the host of an attempt by its number and the request's headers.
pub(crate) type Choose = Box<dyn FnMut(usize, &Headers) -> Option<String>>;

/// How a cluster chooses.
pub(crate) enum Balance {
    /// As a test says.
    Chosen(Choose),
    /// One host after the other, the first for a request's first attempt.
    InTurn(Vec<String>),
    /// `override_host` over round robin.
    Override(OverrideHost),
}

impl Balance {
    pub(crate) fn in_turn(hosts: &[&str]) -> Self {
        Balance::InTurn(owned(hosts))
    }

    pub(crate) fn override_host(hosts: &[&str]) -> Self {
        Balance::Override(OverrideHost { hosts: owned(hosts), turns: Vec::new() })
    }
}

fn owned(hosts: &[&str]) -> Vec<String> {
    hosts.iter().map(|host| (*host).to_owned()).collect()
}

/// What a stream has left of the hosts that its header named at its first choice. Retries and hedges share it.
#[derive(Debug, Default)]
pub(crate) struct Overrides(Option<VecDeque<String>>);

impl Overrides {
    /// The next of the hosts that `is_host` knows; those that it does not know are used up.
    fn next(&mut self, headers: &Headers, is_host: impl Fn(&String) -> bool) -> Option<String> {
        let left = self.0.get_or_insert_with(|| read(headers));
        while let Some(host) = left.pop_front() {
            if is_host(&host) {
                return Some(host);
            }
        }
        None
    }
}

/// Only the first line of the header counts.
fn read(headers: &Headers) -> VecDeque<String> {
    let line = headers.get(OVERRIDE).map(String::from_utf8_lossy).unwrap_or_default();
    line.split(',').map(|host| host.trim_ascii().to_owned()).filter(|host| !host.is_empty()).collect()
}

/// `override_host` load balancing. Source: Envoy, `override_host/load_balancer.cc`; and `RoundRobinLoadBalancer`.
pub(crate) struct OverrideHost {
    hosts: Vec<String>,
    /// Whose turn it is, for each thread; the main thread is the first.
    turns: Vec<Option<u64>>,
}

impl OverrideHost {
    fn choose(&mut self, thread: Thread, headers: &Headers, overrides: &mut Overrides) -> Option<String> {
        overrides.next(headers, |host| self.hosts.contains(host)).or_else(|| self.round_robin(thread))
    }

    fn round_robin(&mut self, thread: Thread) -> Option<String> {
        let number = match thread {
            Thread::Canary | Thread::Main => 0,
            Thread::Worker(number) => number + 1,
        };
        if self.turns.len() <= number {
            self.turns.resize(number + 1, None);
        }
        let turn = self.turns[number].get_or_insert_with(|| start(number as u64));
        let host = self.hosts.get(usize::try_from(*turn % self.hosts.len().max(1) as u64).unwrap()).cloned();
        *turn = turn.wrapping_add(1);
        host
    }
}

/// Where a thread's round begins: Envoy draws it, here it is the same in every run.
fn start(thread: u64) -> u64 {
    let mixed = (thread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32
}

/// A cluster.
pub(crate) struct Cluster {
    name: String,
    /// Whether the attempt seat sits in it, where there is one.
    has_attempt_seat: bool,
    balance: RefCell<Balance>,
}

impl Cluster {
    pub(crate) fn new(name: &str, has_attempt_seat: bool, balance: Balance) -> Self {
        Cluster { name: name.to_owned(), has_attempt_seat, balance: RefCell::new(balance) }
    }
}

/// All clusters; the first is that of requests whose cluster nobody has added.
pub(crate) struct Clusters(Vec<Cluster>);

impl Clusters {
    pub(crate) fn new(first: Cluster, others: Vec<Cluster>) -> Self {
        Clusters(std::iter::once(first).chain(others).collect())
    }

    /// The place of a cluster.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|cluster| cluster.name == name)
    }

    pub(crate) fn has_attempt_seat(&self, place: usize) -> bool {
        self.0[place].has_attempt_seat
    }

    /// The host of a stream's attempt; `None` if there is none.
    pub(crate) fn choose(
        &self,
        place: usize,
        thread: Thread,
        number: usize,
        headers: &Headers,
        overrides: &mut Overrides,
    ) -> Option<String> {
        match &mut *self.0[place].balance.borrow_mut() {
            Balance::Chosen(choose) => choose(number, headers),
            Balance::InTurn(hosts) => hosts.get((number - 1) % hosts.len().max(1)).cloned(),
            Balance::Override(balance) => balance.choose(thread, headers, overrides),
        }
    }

    /// From now on a cluster has these hosts.
    pub(crate) fn set_hosts(&self, place: usize, hosts: &[&str]) {
        match &mut *self.0[place].balance.borrow_mut() {
            Balance::Chosen(_) => panic!("the test itself chooses the hosts of {}", self.0[place].name),
            Balance::InTurn(own) | Balance::Override(OverrideHost { hosts: own, .. }) => *own = owned(hosts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "10.0.0.1:80";
    const B: &str = "10.0.0.2:80";
    const SIX: &str = "[2001:db8::1]:80";

    struct Story {
        clusters: Clusters,
        headers: Headers,
        overrides: Overrides,
    }

    impl Story {
        fn new(hosts: &[&str], header: &str) -> Self {
            let cluster = Cluster::new("orders", true, Balance::override_host(hosts));
            let headers = [(OVERRIDE, header)].into_iter().filter(|(_, value)| !value.is_empty()).collect();
            Story { clusters: Clusters::new(cluster, Vec::new()), headers, overrides: Overrides::default() }
        }

        fn on(&mut self, worker: usize) -> String {
            let thread = Thread::Worker(worker);
            self.clusters.choose(0, thread, 1, &self.headers, &mut self.overrides).unwrap_or_default()
        }
    }

    #[test]
    fn the_header_is_followed_in_order_and_then_the_turn() {
        let mut story = Story::new(&[A, B, SIX], "[2001:db8::1]:80, 10.9.9.9:80,, 10.0.0.1:80 ");
        assert_eq!([story.on(0), story.on(0)], [SIX, A], "one that is not in the cluster is skipped");
        let turns = [story.on(0), story.on(0), story.on(0), story.on(0)];
        assert_eq!(turns[0], turns[3], "the list is used up: every third turn is the same host's");
        assert!(turns[0] != turns[1] && turns[1] != turns[2] && turns[0] != turns[2]);
    }

    #[test]
    fn the_header_is_read_once() {
        let mut story = Story::new(&[A, B], &format!("{B},{A}"));
        assert_eq!(story.on(0), B);
        story.headers.remove(OVERRIDE.as_bytes());
        assert_eq!(story.on(0), A, "what the first choice has read stays");
        let mut late = Story::new(&[A, B], "");
        let first = late.on(0);
        late.headers.set(OVERRIDE, &first);
        assert_ne!(late.on(0), first, "a header that comes after the first choice is not read");
    }

    #[test]
    fn only_the_first_line_counts() {
        let mut story = Story::new(&[A, B], B);
        story.headers.add(OVERRIDE, A);
        assert_eq!(story.on(0), B);
        let turn = story.on(0);
        assert_ne!(story.on(0), turn, "the second line is no list: hosts come in turn");
    }

    #[test]
    fn each_worker_has_its_own_turn_and_its_own_start() {
        let hosts: Vec<String> = (0..7).map(|number| format!("10.0.0.{number}:80")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let starts = |story: &mut Story| (0..8).map(|worker| story.on(worker)).collect::<Vec<_>>();
        let mut story = Story::new(&hosts, "");
        let first = starts(&mut story);
        assert!(first.iter().any(|host| *host != first[0]), "they do not all begin with the same host: {first:?}");
        let position = |host: &str| hosts.iter().position(|each| *each == host).unwrap();
        for (before, after) in first.iter().zip(starts(&mut story)) {
            assert_eq!((position(before) + 1) % hosts.len(), position(&after), "a worker goes on where it was");
        }
    }

    #[test]
    fn hosts_come_and_go() {
        let mut story = Story::new(&[A], "");
        assert_eq!(story.on(0), A);
        story.clusters.set_hosts(0, &[B]);
        assert_eq!(story.on(0), B);
        story.clusters.set_hosts(0, &[]);
        assert_eq!(story.on(0), "", "there is none");
    }
}
