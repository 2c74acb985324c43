//! `envoy/live/`: policies in a file that Envoy follows. Edited and wrapped by `holdfast wrap`, they are taken over without a
//! restart, a failed request or a closed connection; a wrong one is refused, and the one before goes on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, Envoy, EnvoyOptions, PATIENCE, Response, Traffic, eventually, holdfast_program,
    wasm_module,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::inputs::hash_of;

/// The counters of the request seat's discovery.
const REQUEST: &str = "extension_config_discovery.http_filter.holdfast-request";
const ATTEMPT: &str = "extension_config_discovery.upstream_http_filter.holdfast-attempt";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/live").join(name)
}

fn parsed(file: &Path) -> Value {
    serde_norway::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// What stands for `/etc/envoy/live`.
struct Folder {
    dir: TempDir,
    module: PathBuf,
}

impl Folder {
    /// With the shipped policies and the built module.
    fn new() -> Self {
        Self::with_module(wasm_module().unwrap())
    }

    /// With `module` as the place where Envoy looks for it.
    fn with_module(module: PathBuf) -> Self {
        let folder = Self { dir: TempDir::new().unwrap(), module };
        folder.wrap_attempt();
        assert!(folder.wrap(&fs::read_to_string(shipped("policy.json")).unwrap()).status.success());
        folder
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Edits the policy document, and wraps it.
    fn wrap(&self, document: &str) -> Output {
        fs::write(self.path().join("policy.json"), document).unwrap();
        self.run(&["policy.json", "--output", "request.yaml"])
    }

    fn wrap_attempt(&self) {
        assert!(self.run(&["--seat", "attempt", "--output", "attempt.yaml"]).status.success());
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(holdfast_program().unwrap());
        command.current_dir(self.path()).arg("wrap").args(arguments).arg("--module").arg(&self.module).output().unwrap()
    }

    /// An Envoy that follows it.
    async fn envoy(&self, hosts: &[&Backend]) -> Envoy {
        Envoy::start(EnvoyOptions::new().bootstrap(self.bootstrap(hosts))).await.unwrap()
    }

    /// The shipped configuration on this machine.
    fn bootstrap(&self, hosts: &[&Backend]) -> String {
        let host = |host: SocketAddr| {
            HOST.replace("orders.internal", &host.ip().to_string()).replace("8080", &host.port().to_string())
        };
        let hosts = hosts.iter().map(|backend| host(backend.addr())).collect();
        let replacements = [
            ("address: 127.0.0.1, port_value: 9901", 1, "address: 127.0.0.1, port_value: 0".to_owned()),
            ("address: 0.0.0.0, port_value: 8080", 1, "address: 127.0.0.1, port_value: 0".to_owned()),
            (HOST, 1, hosts),
            (": /etc/envoy/live", 4, format!(": {}", self.path().display())),
        ];
        let text = fs::read_to_string(shipped("envoy.yaml")).unwrap();
        replacements.iter().fold(text, |text, (from, times, to)| {
            assert_eq!(text.matches(from).count(), *times, "envoy.yaml says {from:?} so often");
            text.replace(from, to)
        })
    }
}

/// The host of the cluster, as the file writes it.
const HOST: &str = "        - endpoint:
            address:
              socket_address: { address: orders.internal, port_value: 8080 }
";

/// How many filters of a seat Envoy has taken over: it counts those that it refuses as loaded, too.
async fn taken_over(envoy: &Envoy, seat: &str) -> u64 {
    let stats = envoy.stats().await.unwrap();
    let count = |name: &str| stats.get(&format!("{seat}.{name}")).copied().unwrap_or_default();
    count("config_reload") - count("config_fail")
}

/// Waits until there are more of them.
async fn takes_over(envoy: &Envoy, seat: &str, before: u64) {
    let more = || async { taken_over(envoy, seat).await > before };
    eventually(PATIENCE, more).await.unwrap_or_else(|_| panic!("{seat} is taken over"));
}

/// Until Envoy has taken over both seats, requests pass without them.
async fn governed(envoy: &Envoy) {
    for seat in [REQUEST, ATTEMPT] {
        takes_over(envoy, seat, 0).await;
    }
}

/// The shipped policy with other fields in it.
fn edited(change: impl FnOnce(&mut Value)) -> String {
    let mut document: Value = serde_json::from_slice(&fs::read(shipped("policy.json")).unwrap()).unwrap();
    change(&mut document["policies"][0]);
    format!("{document:#}\n")
}

fn with_items(items: Value) -> String {
    edited(|policy| policy["fallback"][0]["respond"]["body"]["items"] = items)
}

async fn until(envoy: &Envoy, what: &str, holds: impl Fn(&Response) -> bool) -> Response {
    let client = Client::http1(envoy.addr());
    let answered = || async { client.get("/").await.ok().filter(&holds) };
    eventually(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{what}"))
}

fn fell_back(response: &Response) -> bool {
    response.header("x-holdfast-fallback").as_deref() == Some("static; reason=open; policy=orders")
}

#[test]
fn the_shipped_files_are_what_the_command_makes() {
    let folder = TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(holdfast_program().unwrap());
        let ran = command.current_dir(folder.path()).arg("wrap").args(arguments).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run(&[shipped("policy.json").to_str().unwrap(), "--output", "request.yaml"]);
    run(&["--seat", "attempt", "--output", "attempt.yaml"]);
    for name in ["request.yaml", "attempt.yaml"] {
        let made = fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(made, fs::read_to_string(shipped(name)).unwrap(), "envoy/live/{name}: wrap it again");
    }
}

/// So what is said there holds here.
#[test]
fn the_configuration_is_the_whole_one_but_for_where_the_seats_come_from() {
    let (mut live, mut whole) = (parsed(&shipped("envoy.yaml")), parsed(&shipped("../envoy.yaml")));
    assert_eq!(live.as_object_mut().unwrap().remove("node"), Some(json!({"id": "envoy", "cluster": "envoy"})));
    for (seat, filters) in [
        ("request", "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0"),
        (
            "attempt",
            "/static_resources/clusters/0/typed_extension_protocol_options/\
             envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters/0",
        ),
    ] {
        let wrapped = parsed(&shipped(&format!("{seat}.yaml")))["resources"][0].clone();
        let mut filter = whole.pointer(filters).unwrap().clone();
        assert_eq!(live.pointer(filters).unwrap()["name"], wrapped["name"], "the {seat} seat is found by its name");
        // The policies are written here and there.
        let mut wrapped = wrapped["typed_config"].clone();
        for config in [&mut wrapped["config"], &mut filter["typed_config"]["config"]] {
            config.as_object_mut().unwrap().remove("configuration");
        }
        assert_eq!(wrapped, filter["typed_config"], "the {seat} seat");
        *live.pointer_mut(filters).unwrap() = Value::Null;
        *whole.pointer_mut(filters).unwrap() = Value::Null;
    }
    assert_eq!(live, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_policies_are_taken_over_under_load_and_nothing_fails_or_closes() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let folder = Folder::new();
    let envoy = folder.envoy(&[&hosts[0], &hosts[1]]).await;
    governed(&envoy).await;
    let clients = [(); 4].map(|()| Client::http1(envoy.addr()));
    let traffic = Traffic::start(&clients, 4, Duration::from_millis(2), Client::request("/"));
    traffic.goes_on(50).await.unwrap();

    for round in 0..6 {
        let before = taken_over(&envoy, REQUEST).await;
        assert!(folder.wrap(&with_items(json!([round]))).status.success());
        takes_over(&envoy, REQUEST, before).await;
        traffic.goes_on(50).await.unwrap();
    }

    let closed = envoy.stat("http.ingress.downstream_cx_destroy").await.unwrap();
    let records = traffic.stop().await;
    assert_eq!(closed, 0, "no client's connection was closed");
    assert_eq!(records.count(200), records.0.len(), "{:?}, {:?}", records.statuses(), records.errors().next());
    assert_eq!(hosts.iter().map(Backend::requests).sum::<u64>(), records.0.len() as u64, "all of them by the hosts");
    assert_eq!(envoy.stat("cluster.orders.upstream_cx_destroy").await.unwrap(), 0, "no host's connection was closed");
    assert_eq!(envoy.stat("listener_manager.listener_modified").await.unwrap(), 0, "the listener is the same one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_fallback_answers_and_a_policy_that_is_off_lets_pass() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let folder = Folder::new();
    let envoy = folder.envoy(&[&hosts[0], &hosts[1]]).await;
    governed(&envoy).await;
    for host in &hosts {
        host.always(Action::status(503));
    }
    let first = until(&envoy, "the breaker opens", fell_back).await;
    assert_eq!((first.status, first.json()), (200, json!({"items": []})));

    assert!(folder.wrap(&with_items(json!(["sold out"]))).status.success());
    let changed = |answer: &Response| fell_back(answer) && answer.json() == json!({"items": ["sold out"]});
    until(&envoy, "the other fallback answers", changed).await;

    for host in &hosts {
        host.always(Action::ok());
    }
    let off = edited(|policy| policy["mode"] = json!("off"));
    assert!(folder.wrap(&off).status.success());
    until(&envoy, "requests pass again", |answer| answer.text() == "ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_document_is_refused_by_the_command_and_by_envoy() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let folder = Folder::new();
    let envoy = folder.envoy(&[&hosts[0], &hosts[1]]).await;
    governed(&envoy).await;
    let rejected = format!("{REQUEST}.update_rejected");
    let request = folder.path().join("request.yaml");
    let good = fs::read_to_string(&request).unwrap();

    let wrong = edited(|policy| policy["breaker"]["failure_rate"] = json!(140));
    let ran = folder.wrap(&wrong);
    let complaint = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let line = 1 + wrong.lines().position(|line| line.contains("failure_rate")).unwrap();
    let place = format!("policy.json:{line}:");
    assert!(complaint.starts_with(&place), "{complaint}");
    assert!(complaint.contains("policies[0].breaker.failure_rate: must be within 0..=100, was 140"), "{complaint}");
    assert_eq!(fs::read_to_string(&request).unwrap(), good, "the file is as it was");
    assert_eq!(envoy.stat(&rejected).await.unwrap(), 0, "Envoy has not seen it");

    // Into the file itself: Envoy looks only when a file is moved into the folder.
    fs::write(&request, good.replace("\"orders\"", "\"Orders\"")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(envoy.stat(&rejected).await.unwrap(), 0, "Envoy has not looked");

    // Past the command, by hand.
    let by_hand = good.replace("\"failure_rate\": 50", "\"failure_rate\": 140");
    assert_ne!(by_hand, good);
    let fresh = folder.path().join("fresh.yaml");
    fs::write(&fresh, by_hand).unwrap();
    fs::rename(&fresh, &request).unwrap();
    envoy.wait_for_stat(&rejected, |count| count > 0).await.unwrap();
    envoy.wait_for_log("policies[0].breaker.failure_rate: must be within 0..=100, was 140").await.unwrap();
    for host in &hosts {
        host.always(Action::status(503));
    }
    until(&envoy, "the policy before goes on: its breaker opens", fell_back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_module_requests_pass_as_without_holdfast_until_it_is_there() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let place = TempDir::new().unwrap();
    let mut folder = Folder::with_module(place.path().join("holdfast.wasm"));
    let envoy = folder.envoy(&[&hosts[0], &hosts[1]]).await;
    for seat in [REQUEST, ATTEMPT] {
        envoy.wait_for_stat(&format!("{seat}.update_rejected"), |count| count > 0).await.unwrap();
    }
    let records = Client::http1(envoy.addr()).drive(2, 20, "/").await;
    assert_eq!(records.count(200), 20, "{:?}", records.statuses());
    assert_eq!(hosts.iter().map(Backend::requests).sum::<u64>(), 20);

    // Envoy does not look into the very same files once more, though the module is there now.
    let policy = fs::read_to_string(shipped("policy.json")).unwrap();
    fs::copy(wasm_module().unwrap(), &folder.module).unwrap();
    let looked = envoy.stat(&format!("{ATTEMPT}.update_success")).await.unwrap();
    folder.wrap_attempt();
    assert!(folder.wrap(&policy).status.success());
    envoy.wait_for_stat(&format!("{ATTEMPT}.update_success"), |count| count > looked).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!([taken_over(&envoy, REQUEST).await, taken_over(&envoy, ATTEMPT).await], [0, 0]);

    // Under another name it is taken over.
    let other = place.path().join("holdfast-2.wasm");
    fs::copy(&folder.module, &other).unwrap();
    folder.module = other;
    folder.wrap_attempt();
    assert!(folder.wrap(&policy).status.success());
    governed(&envoy).await;
    for host in &hosts {
        host.always(Action::status(503));
    }
    until(&envoy, "the breaker opens", fell_back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_under_another_name_takes_over_under_load() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let mut folder = Folder::new();
    let envoy = folder.envoy(&[&hosts[0], &hosts[1]]).await;
    governed(&envoy).await;
    let client = Client::http1(envoy.addr());
    let traffic = Traffic::start(&[client], 2, Duration::from_millis(2), Client::request("/"));
    traffic.goes_on(50).await.unwrap();

    let next = folder.path().join("holdfast-next.wasm");
    fs::copy(wasm_module().unwrap(), &next).unwrap();
    folder.module = next;
    folder.wrap_attempt();
    takes_over(&envoy, ATTEMPT, 1).await;
    assert!(folder.wrap(&fs::read_to_string(shipped("policy.json")).unwrap()).status.success());
    takes_over(&envoy, REQUEST, 1).await;
    traffic.goes_on(50).await.unwrap();

    let records = traffic.stop().await;
    assert_eq!(records.count(200), records.0.len(), "{:?}, {:?}", records.statuses(), records.errors().next());
    hosts.iter().for_each(|host| host.always(Action::status(503)));
    until(&envoy, "the breaker opens", fell_back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_document_at_the_start_is_refused_and_requests_pass() {
    let host = Backend::start().await.unwrap();
    let folder = Folder::new();
    let request = folder.path().join("request.yaml");
    let good = fs::read_to_string(&request).unwrap();
    fs::write(&request, good.replace("\"name\": \"orders\"", "\"name\": \"Bad Name\"")).unwrap();
    let envoy = folder.envoy(&[&host]).await;
    envoy.wait_for_stat(&format!("{REQUEST}.update_rejected"), |count| count > 0).await.unwrap();
    let records = Client::http1(envoy.addr()).drive(2, 20, "/").await;
    assert_eq!((records.count(200), host.requests()), (20, 20), "{:?}", records.statuses());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_says_which_document_runs_and_which_file_is_missing() {
    let host = Backend::start().await.unwrap();
    let folder = Folder::new();
    let envoy = folder.envoy(&[&host]).await;
    governed(&envoy).await;
    let dump = envoy.admin_get("/config_dump?resource=ecds_filters").await.unwrap();
    let digest = parsed(&folder.path().join("request.yaml"))["version_info"].as_str().unwrap().to_owned();
    assert_eq!(hash_of(&[folder.path().join("policy.json")])[..digest.len()], digest, "as sha256sum says");
    assert!(dump.contains(&format!("\"version_info\": \"{digest}\"")), "{dump}");

    for name in ["request.yaml", "attempt.yaml"] {
        let folder = Folder::new();
        fs::remove_file(folder.path().join(name)).unwrap();
        let error = Envoy::start(EnvoyOptions::new().bootstrap(folder.bootstrap(&[&host]))).await.unwrap_err();
        let complaint = "paths must refer to an existing path in the system";
        assert!(error.log.contains(complaint) && error.log.contains(name), "{error}");
    }
}
