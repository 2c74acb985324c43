//! Facts of a request, fetched from the host once and only when a policy needs them.

use std::borrow::Cow;
use std::cell::OnceCell;

use holdfast_policy::fallback::Field;

use crate::host::{self, Headers};

/// The facts of one request, while its headers can be read.
#[derive(Debug, Default)]
pub struct Facts {
    cluster: OnceCell<Option<Vec<u8>>>,
    route: OnceCell<Option<Vec<u8>>>,
    authority: OnceCell<Option<Vec<u8>>>,
    path: OnceCell<Option<Vec<u8>>>,
    method: OnceCell<Option<Vec<u8>>>,
}

impl Facts {
    /// A field of the request; `None` if it has none.
    pub fn get(&self, field: Field<'_>) -> Option<Cow<'_, [u8]>> {
        let cell = match field {
            Field::Cluster => &self.cluster,
            Field::Route => &self.route,
            Field::Authority => &self.authority,
            Field::Path => &self.path,
            Field::Method => &self.method,
            Field::Header(name) => return host::header(Headers::Request, name).map(Cow::Owned),
        };
        let value = cell.get_or_init(|| match field {
            Field::Cluster => host::property("xds\0cluster_name"),
            Field::Route => host::property("xds\0route_name"),
            Field::Authority => host::header(Headers::Request, ":authority"),
            Field::Path => host::header(Headers::Request, ":path"),
            Field::Method => host::header(Headers::Request, ":method"),
            Field::Header(_) => None,
        });
        value.as_deref().map(Cow::Borrowed)
    }
}
