//! MeshConfig: what Istio does to every cluster unless a DestinationRule says otherwise. It stands in the ConfigMap `istio`.

use std::time::Duration;

use serde::Deserialize;
use serde_norway::{Deserializer, Value};

use super::route::{Retries, retries};
use super::traffic::{LocalitySetting, Outlier, Pool, ZoneSetting, locality, outlier, pool, zones};
use crate::documents::Document;
use crate::fields::{Field, Object};
use crate::place::Report;

/// What of it reaches clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// `h2UpgradePolicy: UPGRADE`
    pub upgrade: bool,
    /// `defaultTrafficPolicy.connectionPool`
    pub pool: Option<Pool>,
    /// `defaultTrafficPolicy.outlierDetection`
    pub outlier: Option<Outlier>,
    /// `localityLbSetting`
    pub locality: Option<LocalitySetting>,
    /// `zoneAwareLbSetting`
    pub zones: Option<ZoneSetting>,
    /// `enableAutoMtls`
    pub auto_mtls: bool,
    /// `connectTimeout`
    pub connect_timeout: Duration,
    /// `defaultConfig.proxyHeaders.preserveHttp1HeaderCase`
    pub header_case: bool,
    /// `defaultHttpRetryPolicy`
    pub retries: Retries,
}

impl Default for Mesh {
    /// Source: istio/istio, pkg/config/mesh, `DefaultMeshConfig`.
    fn default() -> Self {
        Mesh {
            upgrade: false,
            pool: None,
            outlier: None,
            locality: None,
            zones: None,
            auto_mtls: true,
            connect_timeout: Duration::from_secs(10),
            header_case: false,
            retries: Retries::Default,
        }
    }
}

/// Whether a ConfigMap holds it: `istio`, or `istio-` and a revision.
pub fn holds(document: &Document) -> bool {
    document.name == "istio" || document.name.starts_with("istio-")
}

/// Reads it. Most of its fields are about other things, so only what matters here is read.
pub fn read(document: &Document, report: &mut Report) -> Option<Mesh> {
    let text = document.part("data", report)?.get("mesh")?;
    let value = match Value::deserialize(Deserializer::from_str(text.text(report)?)) {
        Ok(value) => value,
        Err(error) => {
            report.error(&text.place, format!("is no YAML: {error}"));
            return None;
        }
    };
    let mut mesh = Mesh::default();
    if !value.is_null() {
        fill(&mut mesh, &Field { value: &value, place: text.place }.object(report)?, report);
    }
    Some(mesh)
}

fn fill(mesh: &mut Mesh, object: &Object<'_>, report: &mut Report) {
    const UPGRADE: [(&str, bool); 2] = [("DO_NOT_UPGRADE", false), ("UPGRADE", true)];
    if let Some(field) = object.get("h2UpgradePolicy") {
        mesh.upgrade = field.word(&UPGRADE, report).unwrap_or(false);
    }
    if let Some(policy) = object.get("defaultTrafficPolicy").and_then(|field| field.object(report)) {
        mesh.pool = policy.get("connectionPool").and_then(|field| pool(&field, report));
        mesh.outlier = policy.get("outlierDetection").and_then(|field| outlier(&field, report));
        policy.finish(report);
    }
    mesh.locality = object.get("localityLbSetting").and_then(|field| locality(&field, report));
    mesh.zones = object.get("zoneAwareLbSetting").and_then(|field| zones(&field, report));
    if let Some(field) = object.get("enableAutoMtls") {
        mesh.auto_mtls = field.boolean(report).unwrap_or(true);
    }
    if let Some(time) = object.get("connectTimeout").and_then(|field| field.duration(report)) {
        mesh.connect_timeout = time;
    }
    let headers = object
        .get("defaultConfig")
        .and_then(|field| field.object(report))
        .and_then(|config| config.get("proxyHeaders"))
        .and_then(|field| field.object(report));
    mesh.header_case = headers
        .and_then(|headers| headers.get("preserveHttp1HeaderCase"))
        .and_then(|field| field.boolean(report))
        .unwrap_or(false);
    if let Some(found) = object.get("defaultHttpRetryPolicy").and_then(|field| retries(&field, report)) {
        mesh.retries = found;
    }
}
