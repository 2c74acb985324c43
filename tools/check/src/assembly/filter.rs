//! The module's own settings in a filter.

use holdfast_policy::seat::Seat;

use super::Assembly;
use crate::rules;
use crate::texts::At;
use crate::wasm::{Held, Wasm};

/// Where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// In a listener's chain.
    Listener,
    /// Beside the hosts of a cluster.
    Hosts,
    /// Somewhere that does not tell.
    Unknown,
}

impl<'a> Assembly<'a, '_> {
    /// Looks at every filter with the module.
    pub(super) fn filters(&mut self) {
        for plugin in &self.unit.plugins {
            if plugin.policy.is_none() {
                self.add(&rules::POLICY_MISSING, &plugin.at, format!("has no policy document ({})", plugin.field));
            }
        }
        for wasm in &self.unit.filters {
            let side = self.side(wasm);
            self.configurations(wasm, side);
            self.settings(wasm);
        }
    }

    fn side(&self, wasm: &Wasm<'a>) -> Side {
        let key = wasm.at.key();
        let is = |other: &Option<Wasm<'a>>| other.as_ref().is_some_and(|other| other.at.key() == key);
        let path = wasm.at.path().replace('_', "").to_ascii_lowercase();
        let beside = self.clusters.iter().flat_map(|cluster| &cluster.filters);
        let beside = beside.chain(self.managers.iter().flat_map(|manager| &manager.upstream));
        let by_path = path.contains("typedextensionprotocoloptions") || path.contains("upstreamhttpfilters");
        if by_path || beside.into_iter().any(|filter| is(&filter.wasm)) {
            Side::Hosts
        } else if self.managers.iter().flat_map(|manager| &manager.filters).any(|filter| is(&filter.wasm)) {
            Side::Listener
        } else {
            Side::Unknown
        }
    }

    fn configurations(&mut self, wasm: &Wasm<'a>, side: Side) {
        for held in [&wasm.configuration, &wasm.vm_configuration] {
            match held {
                Held::Other(at) => {
                    let problem = "is no google.protobuf.Struct, StringValue or BytesValue with a value";
                    self.add(&rules::CONFIGURATION_TYPE, at, problem);
                }
                Held::Bytes(at, None) => self.add(&rules::CONFIGURATION_TYPE, at, "is not in base64"),
                _ => {}
            }
        }
        let Some(bytes) = wasm.vm_configuration.bytes() else { return };
        let empty = matches!(wasm.configuration, Held::Nothing)
            || wasm.configuration.bytes().is_some_and(|bytes| bytes.trim_ascii().is_empty());
        let seat_at = wasm.vm_configuration.at().or(wasm.vm().as_ref()).unwrap_or(&wasm.config).clone();
        match (Seat::parse(&bytes), side) {
            (Err(problem), _) => {
                let problem = problem.strip_prefix("vm_config.configuration: ").unwrap_or(&problem).to_owned();
                self.add(&rules::SEAT, &seat_at, problem);
            }
            (Ok(Seat::Attempt), Side::Listener) => {
                self.add(&rules::SEAT_MISPLACED, &seat_at, "the attempt seat stands among the listener's filters");
            }
            (Ok(Seat::Attempt), _) if !empty => {
                let at = wasm.configuration.at().unwrap_or(&wasm.config).clone();
                self.add(&rules::ATTEMPT_SEAT_POLICY, &at, "the attempt seat has a policy document");
            }
            (Ok(Seat::Request), Side::Hosts) => {
                let problem = "the module beside the hosts is not told that it is the attempt seat";
                self.add(&rules::ATTEMPT_SEAT_CONFIGURATION, &seat_at, problem);
            }
            (Ok(Seat::Request), _) if matches!(wasm.configuration, Held::Nothing) => {
                self.add(
                    &rules::POLICY_MISSING,
                    &wasm.config,
                    "the request seat has no policy document (configuration)",
                );
            }
            _ => {}
        }
    }

    fn settings(&mut self, wasm: &Wasm<'a>) {
        let config = &wasm.config;
        match config.get("failure_policy") {
            Some(at) if at.node.text() != Some("FAIL_RELOAD") => {
                let problem = format!("failure_policy is {}", at.node.text().unwrap_or_default());
                self.add(&rules::FAILURE_POLICY, &at, problem);
            }
            None => {
                let at = config.get("fail_open").unwrap_or_else(|| config.clone());
                self.add(&rules::FAILURE_POLICY, &at, "failure_policy is not set, which means FAIL_CLOSED");
            }
            Some(_) => {}
        }
        if let Some(at) = wasm.vm().and_then(|vm| vm.get("runtime")) {
            let name = at.node.text().unwrap_or_default();
            if !["envoy.wasm.runtime.v8", ""].contains(&name) {
                self.add(&rules::RUNTIME, &at, format!("the runtime is {name}"));
            }
        }
        if let Some(at) = config.get("allow_on_headers_stop_iteration").filter(|at| is_true(at)) {
            self.add(&rules::HEADERS_STOP, &at, "allow_on_headers_stop_iteration is true");
        }
        // Beside a control plane's proxy there is an agent that fetches it.
        if let Some(at) = wasm.code().and_then(|code| code.get("remote")).filter(|_| !self.bootstraps.is_empty()) {
            self.add(&rules::REMOTE_CODE, &at, "Envoy itself fetches the module");
        }
    }
}

/// Whether a boolean is true, also one in a wrapper.
fn is_true(at: &At<'_>) -> bool {
    at.node.text() == Some("true") || at.is_true("value")
}
