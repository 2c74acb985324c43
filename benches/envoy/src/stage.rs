//! An Envoy for a case: the same configuration in all of them, apart from the filters and what these need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_tests::{
    Cluster, Envoy, EnvoyOptions, Policy, Route, attempt_seat_filter, holdfast_filter, retry_policy, upstream_codec,
};
use serde_json::{Map, Value, json};

use crate::case::{Case, Filters, Seats, Shows};
use crate::cores::Cores;
use crate::hosts::{Host, Hosts};
use crate::policies::{self, NAME};

/// The breaker in Lua.
const LUA_BREAKER: &str = include_str!("../../peers/breaker.lua");

/// Where a cluster keeps its HTTP options and its filters.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// More than any load has under way at once.
const GENEROUS: u32 = 1_000_000;

/// A module of Holdfast's, and what it is called where there are several.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// A case with the module that it is run with.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The case.
    pub case: &'static Case,
    /// The module; none where the case has no Holdfast.
    pub module: Option<Module>,
    /// What tells it from all others.
    pub label: String,
}

impl Subject {
    /// One for each module where the case has Holdfast, else one.
    pub fn all_of(case: &'static Case, modules: &[Module]) -> Vec<Self> {
        if !case.has_holdfast() {
            return vec![Subject { case, module: None, label: case.name.to_owned() }];
        }
        let several = modules.len() > 1;
        let label = |module: &Module| if several { Self::label(case.name, module) } else { case.name.to_owned() };
        modules.iter().map(|module| Subject { case, module: Some(module.clone()), label: label(module) }).collect()
    }

    /// What a case is called that is run with several modules.
    pub fn label(case: &str, module: &Module) -> String {
        format!("{case}@{}", module.name)
    }
}

/// All that measurements need.
pub struct Stage {
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// The filter that does nothing.
    pub noop: PathBuf,
    /// The one with the fewest exports.
    pub noop_lean: PathBuf,
    /// The hosts, as many as any case has.
    pub hosts: Hosts,
    /// Who runs where.
    pub cores: Cores,
}

impl Stage {
    /// The case's hosts.
    pub fn hosts(&self, case: &Case) -> &[Arc<Host>] {
        self.hosts.first(case.hosts)
    }

    /// Starts Envoy with so many workers. If there is only one, Envoy then keeps to its core.
    pub async fn start(&self, subject: &Subject, workers: u32) -> anyhow::Result<Envoy> {
        self.start_with(subject, workers, &json!({})).await
    }

    /// The same, with more in the bootstrap.
    pub async fn start_with(&self, subject: &Subject, workers: u32, more: &Value) -> anyhow::Result<Envoy> {
        let options = self.options(subject).concurrency(workers).raw(more.clone());
        let envoy = Envoy::start(options).await?;
        // Not before it has started: V8 compiles modules on all cores, which takes seconds on one.
        Cores::keep_process_to(self.cores.envoy.filter(|_| workers == 1), envoy.pid())?;
        Ok(envoy)
    }

    /// What Envoy runs.
    fn options(&self, subject: &Subject) -> EnvoyOptions {
        let case = subject.case;
        let cluster = |name: &str| {
            let hosts = self.hosts(case).iter();
            let cluster = hosts.fold(Cluster::new(name), |cluster, host| cluster.endpoint(host.addr()));
            cluster.raw(json!({"circuit_breakers": {"thresholds": [thresholds()]}}))
        };
        let mut options = EnvoyOptions::new().binary(&self.envoy).log_level("warning");
        if case.shows == Shows::Detours {
            options = options.cluster(cluster(policies::STANDBY)).route(Route::chosen_by_fallback(policies::STANDBY));
        }
        let cluster = cluster(NAME);
        let options = options
            .route(Route::to("/", NAME))
            .raw_hcm(json!({"access_log": null}))
            .raw_virtual_host(json!({"retry_policy": retry_policy()}))
            .raw(json!({"stats_flush_interval": null}));
        let (options, cluster) = match case.filters {
            Filters::None => (options, cluster),
            Filters::Noop(seats) => idle(&self.noop, seats, options, cluster),
            Filters::NoopLean(seats) => idle(&self.noop_lean, seats, options, cluster),
            Filters::Holdfast(seats, policy) => {
                let wasm = subject.module.as_ref().map(|module| &module.path);
                let options = wasm.into_iter().fold(options, EnvoyOptions::wasm).policy(policy());
                let options = options.cluster(Cluster::admin(policies::ADMIN));
                match seats {
                    Seats::Request => (options, cluster),
                    Seats::Second => {
                        (wasm.into_iter().fold(options, |options, wasm| idle_seat(options, wasm)), cluster)
                    }
                    Seats::Both => (options.seats(holdfast_tests::Seats::Both), cluster.steered()),
                }
            }
            Filters::Native => native(options, cluster),
            Filters::Lua => (options.filter(lua()), cluster),
        };
        options.cluster(cluster)
    }
}

/// Limits of Envoy's own that stand in the way of nothing.
fn thresholds() -> Map<String, Value> {
    let names = ["max_connections", "max_pending_requests", "max_requests", "max_retries"];
    names.into_iter().map(|name| (name.to_owned(), json!(GENEROUS))).collect()
}

/// Envoy's own admission control, outlier detection, and retries under a budget.
fn native(options: EnvoyOptions, cluster: Cluster) -> (EnvoyOptions, Cluster) {
    let mut thresholds = thresholds();
    thresholds
        .insert("retry_budget".to_owned(), json!({"budget_percent": {"value": 20.0}, "min_retry_concurrency": 10}));
    let retries = json!({
        "retry_on": "connect-failure,refused-stream,reset,gateway-error",
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    });
    let options = options.filter(admission_control()).raw_virtual_host(json!({"retry_policy": retries}));
    let detecting = json!({"outlier_detection": {}, "circuit_breakers": {"thresholds": [thresholds]}});
    (options, cluster.raw(detecting))
}

/// Puts a request seat first whose policy matches nothing.
fn idle_seat(options: EnvoyOptions, wasm: &Path) -> EnvoyOptions {
    let mut filter = holdfast_filter(wasm, &Policy::from(policies::elsewhere()));
    if let Some(name) = filter.get_mut("name") {
        *name = json!("holdfast-first");
    }
    options.filter(filter)
}

/// A module that does nothing, configured as Holdfast's is: in both places it has two VMs.
fn idle(wasm: &Path, seats: Seats, options: EnvoyOptions, cluster: Cluster) -> (EnvoyOptions, Cluster) {
    let options = options.filter(holdfast_filter(wasm, &Policy::from("{}")));
    if seats != Seats::Both {
        return (options, cluster);
    }
    let filters = json!({
        "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
        "explicit_http_config": {"http_protocol_options": {}},
        "http_filters": [attempt_seat_filter(wasm), upstream_codec()],
    });
    (options, cluster.raw(json!({"typed_extension_protocol_options": {HTTP_OPTIONS: filters}})))
}

fn admission_control() -> Value {
    json!({
        "name": "envoy.filters.http.admission_control",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
            "enabled": {"default_value": true, "runtime_key": "admission_control.enabled"},
            "success_criteria": {"http_criteria": {"http_success_status": [{"start": 100, "end": 500}]}},
            "sampling_window": "30s",
        },
    })
}

fn lua() -> Value {
    json!({
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": LUA_BREAKER},
        },
    })
}
