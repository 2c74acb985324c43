//! What it says of a service that its clients leave before it answers.

use std::time::Duration;

use holdfast_tests::{Action, Client, PATIENCE, Scene, Seats, Traffic, Update, drive_all, eventually};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::ends::{
    CLOSED, DEADLINE, OPEN, SEATS, Service, give_up, lasting, options, serve, with_deadline, with_expected,
};
use crate::outlying::{SETTLED, Story, are_out, counts, listed, metric, ms, stage, told};

/// How many requests each story sends to a service that hangs.
const CALLS: u64 = 80;

/// When clients leave that have said nothing of it.
const IMPATIENT: Duration = ms(150);

/// A breaker with the default thresholds, which once open stays so to the end of the test.
fn default_thresholds() -> Value {
    json!({"breaker": {"window": "60s", "open_for": "1h"}})
}

/// The same for slowness.
fn slow_thresholds() -> Value {
    json!({"outcome": {"slow_after": "50ms"}, "breaker": {"window": "60s", "slow_rate": 50, "open_for": "1h"}})
}

/// The breaker has opened when the default volume was reached: what was under way then is all that came after it.
async fn has_opened(scene: &Scene, service: &Service, seats: Seats) {
    service.becomes(scene, "breaker_state", OPEN).await;
    let (reached, rejected) = (service.host.requests(), service.metric(scene, "rejected.open").await);
    let counted = service.outcomes(scene, 0).await;
    let hint = || format!("{reached} reached, {rejected} rejected; success, failure, ignored: {counted:?}");
    assert!(reached < 60 && rejected > 20, "{} {seats:?}: {}", service.name, hint());
}

/// All of them were let through, and none has said anything. A client may give up before its request has arrived anywhere.
async fn has_not_opened(scene: &Scene, service: &Service, seats: Seats) {
    let requests = service.metric(scene, "requests").await;
    assert!(requests > 60, "{} {seats:?}: {requests} requests", service.name);
    assert_eq!(service.outcomes(scene, requests).await, [0, 0, requests], "{} {seats:?}", service.name);
    assert_eq!(service.metric(scene, "breaker_state").await, CLOSED, "{} {seats:?}", service.name);
    assert_eq!(service.metric(scene, "rejected.open").await, 0, "{} {seats:?}", service.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_hangs_until_its_clients_give_up_opens_its_breaker() {
    for seats in SEATS {
        let grpc = Service::new("/grpc", default_thresholds()).await.http2();
        let http = Service::new("/http", default_thresholds()).await;
        let slow = Service::new("/slow", slow_thresholds()).await;
        let bare = Service::new("/bare", default_thresholds()).await;
        let services = [&grpc, &http, &slow, &bare];
        services.iter().for_each(|service| service.host.always(Action::hang()));
        let (scene, clients) = serve(seats, &services).await;

        tokio::join!(
            give_up(&clients, DEADLINE, 80, with_deadline("/grpc", DEADLINE)),
            give_up(&clients, DEADLINE, 80, with_expected("/http", DEADLINE)),
            give_up(&clients, IMPATIENT, 80, "/slow"),
            give_up(&clients, IMPATIENT, 80, "/bare"),
        );

        for service in [&grpc, &http] {
            has_opened(&scene, service, seats).await;
            let reached = service.host.requests();
            let [success, failure, ignored] = service.outcomes(&scene, reached).await;
            assert!(failure >= 10 && success == 0, "{}: {failure} failures, {ignored} ignored", service.name);
        }
        has_opened(&scene, &slow, seats).await;
        assert!(slow.metric(&scene, "breaker_opened.slow_rate").await == 1, "slow, as far as anybody can tell");
        assert_eq!(slow.metric(&scene, "failure").await, 0, "nobody knows that it would have failed");
        // Who leaves for no reason that can be seen says nothing.
        has_not_opened(&scene, &bare, seats).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_say_nothing_where_the_policy_says_so() {
    let ignoring = |mut policy: Value| {
        policy["outcome"]["client_gone"] = json!("ignore");
        policy
    };
    for seats in SEATS {
        let grpc = Service::new("/grpc", ignoring(default_thresholds())).await.http2();
        let slow = Service::new("/slow", ignoring(slow_thresholds())).await;
        grpc.host.always(Action::hang());
        slow.host.always(Action::hang());
        let (scene, clients) = serve(seats, &[&grpc, &slow]).await;

        tokio::join!(
            give_up(&clients, DEADLINE, 80, with_deadline("/grpc", DEADLINE)),
            give_up(&clients, IMPATIENT, 80, "/slow"),
        );

        has_not_opened(&scene, &grpc, seats).await;
        has_not_opened(&scene, &slow, seats).await;
        assert_eq!(slow.metric(&scene, "slow").await, 0, "{seats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_in_time_say_nothing_of_a_healthy_service() {
    let watchful = json!({
        "outcome": {"slow_after": "5s"},
        "breaker": {"window": "60s", "slow_rate": 50, "consecutive_failures": 5, "open_for": "1h"},
    });
    for seats in SEATS {
        // Long before its deadline, and at three quarters of it.
        let early = Service::new("/early", watchful.clone()).await.http2();
        let late = Service::new("/late", watchful.clone()).await.http2();
        let http = Service::new("/http", watchful.clone()).await;
        let services = [&early, &late, &http];
        services.iter().for_each(|service| service.host.always(Action::grpc(0).after(ms(4000))));
        let (scene, clients) = serve(seats, &services).await;
        let patient: Vec<Client> = clients.iter().map(|client| client.clone().timeout(ms(1500))).collect();

        tokio::join!(
            give_up(&clients, ms(20), 80, with_deadline("/early", ms(2000))),
            drive_all(&patient, 80, 80, with_deadline("/late", ms(2000))),
            give_up(&clients, ms(20), 80, with_expected("/http", ms(2000))),
        );

        for service in services {
            has_not_opened(&scene, service, seats).await;
            assert_eq!(service.metric(&scene, "slow").await, 0, "{} {seats:?}", service.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_its_request_is_whole_has_not_waited() {
    for seats in SEATS {
        let upload = Service::new("/upload", slow_thresholds()).await;
        upload.host.always(Action::hang());
        let (scene, clients) = serve(seats, &[&upload]).await;

        let begun =
            |number: usize| clients[number % 2].open_unfinished(Client::post_request(upload.name, "a part of it"));
        let uploads: Vec<_> = (0..30).map(begun).collect();
        upload.host.wait_in_flight(30).await.unwrap();
        sleep(IMPATIENT).await;
        for one in uploads {
            one.disconnect().await;
        }

        assert_eq!(upload.outcomes(&scene, 30).await, [0, 0, 30], "{seats:?}");
        assert_eq!(
            upload.metric(&scene, "slow").await,
            0,
            "{seats:?}: longer than slow_after, but not for the service"
        );
        assert_eq!(upload.metric(&scene, "breaker_state").await, CLOSED, "{seats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_envoy_itself_ends_says_nothing() {
    for seats in SEATS {
        let hung = Service::new("/hung", slow_thresholds()).await;
        let grpc = Service::new("/grpc", default_thresholds()).await.http2();
        let watch = Service::new("/watch", default_thresholds()).await;
        let services = [&hung, &grpc, &watch];
        hung.host.always(Action::hang());
        grpc.host.always(Action::hang());
        watch.host.always(Action::ok().then_hang());
        let options = options(seats, &services).dynamic_listeners().drain_time(ms(1000));
        let scene = Scene::with(options).await;
        let clients = scene.workers(2).await;
        let calls = |number: usize| {
            let client = &clients[number % 2];
            let deadline = with_deadline("/grpc", DEADLINE);
            [client.open(Client::request("/hung")), client.open(deadline), client.open(Client::request("/watch"))]
        };
        let open: Vec<_> = (0..30).flat_map(calls).collect();
        eventually(PATIENCE, || async { services.iter().all(|service| service.host.requests() == 30) }).await.unwrap();

        // With another configuration of the listener what runs is cut when the drain time is over.
        let changed = json!({"stat_prefix": "another"});
        let update = scene.update(|options| options.raw_hcm(changed)).await.unwrap();
        assert_eq!(update, Update::Accepted);
        for call in open {
            call.finish().await.unwrap_err();
        }

        assert_eq!(hung.outcomes(&scene, 30).await, [0, 0, 30], "{seats:?}");
        assert_eq!(hung.metric(&scene, "slow").await, 0, "{seats:?}");
        assert_eq!(grpc.outcomes(&scene, 30).await, [0, 0, 30], "{seats:?}");
        assert_eq!(watch.outcomes(&scene, 30).await, [30, 0, 0], "{seats:?}: HTTP has told its status");
        for service in services {
            assert_eq!(service.metric(&scene, "breaker_state").await, CLOSED, "{} {seats:?}", service.name);
        }
    }
}

/// Half-open after 300 ms, with two probes.
fn quick(mut more: Value) -> Value {
    let mut breaker = lasting();
    json_patch::merge(&mut breaker, &json!({"open_for": "300ms", "open_growth": 1, "open_jitter": 0}));
    breaker["half_open"] = json!({"probes": 2});
    json_patch::merge(&mut more, &json!({"breaker": breaker}));
    more
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_is_judged_by_clients_that_give_up() {
    for seats in SEATS {
        let grpc = Service::new("/grpc", quick(json!({}))).await.http2();
        let http = Service::new("/http", quick(json!({}))).await;
        let mut slow = quick(json!({"outcome": {"slow_after": "50ms"}}));
        slow["breaker"]["slow_rate"] = json!(50);
        let slow = Service::new("/slow", slow).await;
        let services = [&grpc, &http, &slow];
        let (scene, clients) = serve(seats, &services).await;
        let call = |name: &str| match name {
            "/grpc" => with_deadline(name, DEADLINE),
            "/http" => with_expected(name, DEADLINE),
            _ => Client::request(name),
        };

        for service in services {
            service.host.always(Action::hang());
            give_up(&clients, DEADLINE, 20, call(service.name)).await;
            sleep(ms(400)).await;
            // Two probes, and whatever comes beside them is rejected.
            eventually(PATIENCE, || async {
                give_up(&clients, DEADLINE, 4, call(service.name)).await;
                let transitions = service.transitions(&scene);
                if transitions.len() >= 3 {
                    Ok(())
                } else {
                    Err(format!("{} {seats:?}: {transitions:?}", service.name))
                }
            })
            .await
            .unwrap();
            let (answer, well) = match service.name {
                "/grpc" => (Action::grpc(0), Client::grpc_request(service.name)),
                name => (Action::ok(), Client::request(name)),
            };
            service.host.always(answer);
            let traffic = Traffic::start(&clients, 2, ms(50), well);
            service.becomes(&scene, "breaker_state", CLOSED).await;
            traffic.stop().await;
            let transitions = service.transitions(&scene);
            let told = || format!("{} {seats:?}: {:?}", service.name, scene.transitions(&service.name[1..]));
            assert_eq!(transitions[..3], ["closed -> open", "open -> half-open", "half-open -> open"], "{}", told());
            assert_eq!(transitions.last().map(String::as_str), Some("half-open -> closed"), "{}", told());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_throttle_hears_of_clients_that_give_up() {
    for seats in SEATS {
        let grpc = Service::new("/grpc", json!({"throttle": {}})).await.http2();
        let http = Service::new("/http", json!({"throttle": {}})).await;
        let bare = Service::new("/bare", json!({"throttle": {}})).await;
        let services = [&grpc, &http, &bare];
        services.iter().for_each(|service| service.host.always(Action::hang()));
        let (scene, clients) = serve(seats, &services).await;

        tokio::join!(
            give_up(&clients, DEADLINE, 80, with_deadline("/grpc", DEADLINE)),
            give_up(&clients, DEADLINE, 80, with_expected("/http", DEADLINE)),
            give_up(&clients, IMPATIENT, 80, "/bare"),
        );

        for service in [&grpc, &http] {
            // 80 % of what comes after the first eight, 58 on the average.
            let (reached, rejected) = (service.host.requests(), service.metric(&scene, "rejected.throttled").await);
            assert!(reached < 60 && rejected > 20, "{} {seats:?}: {rejected} of {CALLS}", service.name);
        }
        assert_eq!(bare.metric(&scene, "rejected.throttled").await, 0, "{seats:?}");
    }
}

/// Out for a minute, which no test lasts.
fn ejecting(more: Value) -> Value {
    let mut outlier = json!({"base_ejection_time": "60s", "interval": "1s"});
    json_patch::merge(&mut outlier, &more);
    listed(outlier)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_that_hangs_gets_nothing_more() {
    let grpc = Story::of::<2>("/grpc", ejecting(json!({"consecutive_failures": 5}))).await.http2();
    let slow = ejecting(json!({"consecutive_failures": 0, "latency": {"min_requests": 5, "min_hosts": 2}}));
    let slow = Story::new::<2>("/slow", json!({"outcome": {"slow_after": "50ms"}, "outlier": slow})).await;
    let bare = Story::of::<2>("/bare", ejecting(json!({"consecutive_failures": 5}))).await;
    let (scene, clients) = stage(2, &[&grpc, &slow, &bare]).await;
    for story in [&grpc, &slow, &bare] {
        story.hosts[0].always(Action::hang());
    }

    let (by_deadline, _, _) = tokio::join!(
        give_up(&clients, DEADLINE, 80, with_deadline("/grpc", DEADLINE)),
        give_up(&clients, IMPATIENT, 80, "/slow"),
        give_up(&clients, IMPATIENT, 80, "/bare"),
    );

    are_out(&scene, "/grpc", &[&grpc.hosts[0]]).await;
    let hung = counts(&grpc.hosts)[0];
    assert!((5..35).contains(&hung), "{hung} of {CALLS} went to the host that hangs");
    assert_eq!(by_deadline.count(200) as u64, CALLS - hung, "all the others are served");
    // By its time a sweep has to find it.
    are_out(&scene, "/slow", &[&slow.hosts[0]]).await;
    assert_eq!(metric(&scene, "/slow", "ejections.latency").await, 1, "{:?}", told(&scene, "/slow"));
    slow.hosts[0].reset_counters();
    let after = give_up(&clients, ms(5000), 80, "/slow").await;
    assert_eq!((after.count(200), slow.hosts[0].requests()), (80, 0), "its share is nothing");
    // Nobody can say why these have left.
    assert_eq!(metric(&scene, "/bare", "hosts_ejected").await, 0);
    assert!(counts(&bare.hosts)[0] >= 20, "{:?}", counts(&bare.hosts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_stay_in_whatever_clients_do_before_their_deadlines() {
    let strict = ejecting(json!({"consecutive_failures": 3, "latency": {"min_requests": 5, "min_hosts": 2}}));
    let aborted = json!({"outcome": {"slow_after": "5s"}, "outlier": strict});
    let aborted = Story::new::<2>("/aborted", aborted).await.http2();
    let (scene, clients) = stage(2, &[&aborted]).await;
    // One host is aborted far more often than the other.
    aborted.hosts[0].always(Action::grpc(0).after(ms(1000)));
    aborted.hosts[1].always(Action::grpc(0));

    let records = give_up(&clients, IMPATIENT, 80, with_deadline("/aborted", ms(4000))).await;

    assert!(records.errors().count() >= 20, "about half give up: {:?}", records.statuses());
    sleep(ms(1500)).await;
    assert_eq!(told(&scene, "/aborted"), Vec::<String>::new(), "after a sweep nobody is out");
    sleep(SETTLED).await;
    assert_eq!(metric(&scene, "/aborted", "hosts_ejected").await, 0);
}
