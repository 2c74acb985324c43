//! The policy's own balance: each request's host is chosen, also while none is out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_tests::{
    Action, Backend, Client, EnvoyOptions, PATIENCE, Scene, Seats, drive_all, eventually, with_header,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    NOTICED, SETTLED, Story, all_served, are_out, are_told_nothing, becomes, counts, listed, metric_now, ms, route,
    stage, start, steered, until_out,
};

/// Says who answered.
fn with_names(hosts: &[Backend]) {
    for host in hosts {
        host.always(Action::ok().header("x-host", host.addr().to_string()));
    }
}

/// Which host each of these users gets, asked for through one client after the other.
async fn users(clients: &[Client], path: &str, header: &str, users: u32, round: usize) -> BTreeMap<u32, SocketAddr> {
    let mut hosts = BTreeMap::new();
    for user in 0..users {
        let client = &clients[(user as usize + round) % clients.len()];
        let value = if header == "cookie" { format!("a=b; session=user-{user}") } else { format!("user-{user}") };
        let response = client.send(with_header(Client::request(path), header, value)).await.unwrap();
        assert_eq!(response.status, 200);
        hosts.insert(user, response.header("x-host").unwrap().parse().unwrap());
    }
    hosts
}

fn hashed(by: Value) -> Value {
    listed(json!({
        "consecutive_failures": 3, "base_ejection_time": "20s", "ejection_jitter": 0, "interval": "300s", "balance": {"hash": by},
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_out_moves_its_own_sessions_and_no_others() {
    let by_header = Story::of::<5>("/header", hashed(json!({"header": "X-User"}))).await;
    let by_cookie = Story::of::<5>("/cookie", hashed(json!({"cookie": "session"}))).await;
    let (scene, clients) = stage(4, &[&by_header, &by_cookie]).await;
    let rows = [(&by_header, "x-user"), (&by_cookie, "cookie")];
    let mut sessions = Vec::new();
    for (story, header) in rows {
        with_names(&story.hosts);
        let before = users(&clients, story.name, header, 200, 0).await;
        for round in 1..4 {
            assert_eq!(users(&clients, story.name, header, 200, round).await, before, "whichever worker has it");
        }
        let mut shares: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        before.values().for_each(|host| *shares.entry(*host).or_default() += 1);
        assert!(shares.len() == 5 && shares.values().all(|share| (15..=70).contains(share)), "{shares:?}");

        let bad = &story.hosts[2];
        bad.always(Action::status(500));
        until_out(&scene, &clients, story.name, 40, 1).await;
        are_out(&scene, story.name, &[bad]).await;
        sleep(SETTLED).await;
        let during = users(&clients, story.name, header, 200, 1).await;
        let moved: Vec<_> = before.iter().filter(|(user, host)| during[user] != **host).collect();
        assert!(moved.iter().all(|(_, host)| **host == bad.addr()), "sessions of other hosts have moved: {moved:?}");
        assert_eq!(moved.len(), shares[&bad.addr()]);
        println!("{}: {} of 200 sessions move, those of the host that is out", story.name, moved.len());
        sessions.push(before);
    }
    // They are probed, and have their sessions again.
    for ((story, header), before) in rows.into_iter().zip(sessions) {
        let bad = &story.hosts[2];
        bad.always(Action::ok().header("x-host", bad.addr().to_string()));
        until_out(&scene, &clients, story.name, 20, 0).await;
        sleep(SETTLED).await;
        assert_eq!(users(&clients, story.name, header, 200, 2).await, before);
        are_told_nothing(&story.hosts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_or_a_path_has_its_host_and_what_has_no_value_goes_to_any() {
    let by_address = Story::of::<3>("/address", hashed(json!("source_ip"))).await;
    let by_path = Story::of::<3>("/path", hashed(json!("path"))).await;
    let without = Story::of::<3>("/without", hashed(json!({"header": "x-user"}))).await;
    let (_scene, clients) = stage(4, &[&by_address, &by_path, &without]).await;
    [&by_address, &by_path, &without].into_iter().for_each(|story| with_names(&story.hosts));

    drive_all(&clients, 4, 60, by_address.name).await;
    let mut counts_of = counts(&by_address.hosts);
    counts_of.sort_unstable();
    assert_eq!(counts_of, [0, 0, 60], "all come from one address, whatever their ports");

    let mut seen = BTreeMap::new();
    for number in 0..120 {
        let client = &clients[number % 4];
        let response = client.get(&format!("/path/{}?query={number}", number % 30)).await.unwrap();
        let host = response.header("x-host").unwrap();
        assert_eq!(seen.entry(number % 30).or_insert_with(|| host.clone()), &host, "the query does not count");
    }
    assert!(counts(&by_path.hosts).iter().all(|count| *count > 0));

    drive_all(&clients, 4, 300, without.name).await;
    assert!(counts(&without.hosts).iter().all(|count| (60..=140).contains(count)), "{:?}", counts(&without.hosts));
}

/// A host that does one thing after the other, each in so long.
fn queue(host: &Backend, takes: Duration) {
    let free = Arc::new(Mutex::new(Instant::now()));
    host.script(move |_| {
        let now = Instant::now();
        let mut free = free.lock().unwrap();
        *free = (*free).max(now) + takes;
        Action::ok().after(*free - now)
    });
}

/// Three hosts of which one works at half of the others' speed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_host_gets_less_where_the_balance_looks_at_that() {
    let balanced = |balance: &str| listed(json!({"interval": "300s", "balance": balance}));
    let rows = ["round_robin", "least_request", "least_latency"];
    let round_robin = Story::of::<3>("/round-robin", balanced(rows[0])).await;
    let least_request = Story::of::<3>("/least-request", balanced(rows[1])).await;
    let least_latency = Story::of::<3>("/least-latency", balanced(rows[2])).await;
    let stories = [&round_robin, &least_request, &least_latency];
    let (_scene, clients) = stage(2, &stories).await;
    let mut slows = Vec::new();
    for story in stories {
        for (number, host) in story.hosts.iter().enumerate() {
            queue(host, if number == 0 { ms(20) } else { ms(10) });
        }
        let records = drive_all(&clients, 16, 1200, story.name).await;
        all_served(&records);
        let counts = counts(&story.hosts);
        println!("{}: {counts:?}, p50 {:?}, p99 {:?}", story.name, records.latency(50.0), records.latency(99.0));
        slows.push(counts[0]);
    }
    let [in_turn, least_request, least_latency] = slows.try_into().unwrap();
    assert!((380..=420).contains(&in_turn), "a third, whatever that means for it");
    // As fast as they can be the others serve two fifths each.
    assert!((150..=320).contains(&least_request), "{least_request} of 1200");
    assert!((50..=320).contains(&least_latency), "{least_latency} of 1200");
}

/// A host that fails goes out, gets nothing, is probed, and comes back slowly, whoever chooses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_go_out_and_come_back_under_every_balance() {
    let policy = |balance: &str| {
        let outlier = json!({
            "consecutive_failures": 3, "base_ejection_time": "2s", "ejection_jitter": 0, "slow_start": "3s", "interval": "300s",
            "balance": balance,
        });
        let retry = json!({
            "max_retries": 2, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
            "budget": {"ratio": 100, "min_per_second": 1000},
        });
        json!({"outlier": listed(outlier), "retry": retry})
    };
    let mut stories = Vec::new();
    for (name, balance) in [
        ("/round-robin", "round_robin"),
        ("/random", "random"),
        ("/weighted", "weighted"),
        ("/least-request", "least_request"),
        ("/least-latency", "least_latency"),
    ] {
        stories.push(Story::new::<4>(name, policy(balance)).await);
    }
    let (scene, clients) = stage(4, &stories.iter().collect::<Vec<_>>()).await;
    for story in &stories {
        let bad = &story.hosts[1];
        bad.always(Action::status(500));
        let records = drive_all(&clients, 4, 200, story.name).await;
        assert_eq!(records.count(200), 200, "{}: what fails is tried on another host", story.name);
        are_out(&scene, story.name, &[bad]).await;
        sleep(SETTLED).await;
        bad.reset_counters();
        all_served(&drive_all(&clients, 4, 200, story.name).await);
        // Its time may be over meanwhile: then it had probes.
        assert!(bad.requests() <= 3, "{}: {} at the host that is out", story.name, bad.requests());
    }
    for story in &stories {
        story.hosts[1].always(Action::ok());
        eventually(PATIENCE, || async {
            all_served(&drive_all(&clients, 4, 20, story.name).await);
            let out = metric_now(&scene, story.name, "hosts_ejected").await;
            if out == 0 { Ok(()) } else { Err(format!("{}: {out} are out", story.name)) }
        })
        .await
        .unwrap();
    }
    sleep(ms(3200)).await;
    for story in &stories {
        story.hosts.iter().for_each(Backend::reset_counters);
        all_served(&drive_all(&clients, 4, 800, story.name).await);
        let back = story.hosts[1].requests();
        assert!((100..=320).contains(&back), "{}: {back} of 800 at the one that is back", story.name);
        are_told_nothing(&story.hosts);
    }
}

/// A policy that lists its hosts needs no listing; in a shadow the cluster's own balancing stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_may_be_listed_and_a_shadow_chooses_none() {
    let hosts: [Backend; 3] = start().await;
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    let outlier = |mode: &str| json!({"mode": mode, "hosts": addrs[..2], "balance": "weighted", "interval": "300s"});
    let policy =
        |name: &str, mode: &str| json!({"name": name, "match": {"path": format!("/{name}")}, "outlier": outlier(mode)});
    let mut options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    for name in ["listed", "shadow"] {
        options = options.cluster(steered(name, &hosts)).route(route(&format!("/{name}")));
    }
    let document = json!({"policies": [policy("listed", "enforce"), policy("shadow", "shadow")]});
    let scene = Scene::with(options.policy(document)).await;
    let clients = scene.workers(2).await;
    for path in ["/listed", "/shadow"] {
        drive_all(&clients, 4, 40, path).await;
    }
    sleep(NOTICED).await;
    becomes(&scene, "/listed", "hosts", 2).await;
    hosts.iter().for_each(Backend::reset_counters);
    all_served(&drive_all(&clients, 4, 300, "/listed").await);
    let listed = counts(&hosts);
    assert!(listed[2] == 0 && listed[0].abs_diff(listed[1]) <= 2, "the third is not in the list: {listed:?}");
    hosts.iter().for_each(Backend::reset_counters);
    all_served(&drive_all(&clients, 4, 300, "/shadow").await);
    assert!(counts(&hosts).iter().all(|count| *count > 50), "{:?}", counts(&hosts));
    are_told_nothing(&hosts);
}
