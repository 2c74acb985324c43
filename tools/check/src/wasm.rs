//! The module as a filter of Envoy: its configuration as it stands in a file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_policy::seat::Seat;

use crate::json;
use crate::reader::Reader;
use crate::texts::At;

/// What names of ours begin with.
const NAME: &str = "holdfast";

/// What a configuration that travels as an `Any` holds.
#[derive(Debug, Clone)]
pub enum Held<'a> {
    /// There is none.
    Nothing,
    /// A text: the scalar.
    Text(At<'a>),
    /// Bytes: the scalar that encodes them, and what they are if it does.
    Bytes(At<'a>, Option<Vec<u8>>),
    /// A `Struct`: its value, and the bytes of it as JSON where it has some.
    Struct(At<'a>, Option<Vec<u8>>),
    /// Something else.
    Other(At<'a>),
}

impl<'a> Held<'a> {
    /// The bytes that the module gets, where they are known.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Held::Nothing => Some(Vec::new()),
            Held::Text(at) => at.node.text().map(|text| text.as_bytes().to_vec()),
            Held::Bytes(_, bytes) => bytes.clone(),
            Held::Struct(_, bytes) => bytes.clone(),
            Held::Other(_) => None,
        }
    }

    /// Where it stands.
    pub fn at(&self) -> Option<&At<'a>> {
        match self {
            Held::Nothing => None,
            Held::Text(at) | Held::Bytes(at, _) | Held::Struct(at, _) | Held::Other(at) => Some(at),
        }
    }

    /// What an `Any` holds.
    pub fn of(any: Option<At<'a>>) -> Self {
        let Some(any) = any else { return Held::Nothing };
        let value = any.get("value");
        match (any.type_name(), value) {
            (Some("StringValue"), Some(value)) if value.node.text().is_some() => Held::Text(value),
            (Some("BytesValue"), Some(value)) if value.node.text().is_some() => {
                let bytes = value.node.text().and_then(|text| STANDARD.decode(text.trim()).ok());
                Held::Bytes(value, bytes)
            }
            (Some("StringValue" | "BytesValue"), None) => Held::Nothing,
            (Some("Struct"), Some(value)) if value.node.text().is_none() => {
                // An empty one has no bytes.
                let bytes = if value.entries().is_empty() {
                    Some(String::new())
                } else {
                    json::text(value.node, Reader::Plain).ok()
                };
                Held::Struct(value, bytes.map(String::into_bytes))
            }
            _ => Held::Other(any),
        }
    }
}

/// The module in a filter.
#[derive(Debug, Clone)]
pub struct Wasm<'a> {
    /// The message with its type.
    pub at: At<'a>,
    /// Its plugin configuration.
    pub config: At<'a>,
    /// What the plugin is configured with: the policy document.
    pub configuration: Held<'a>,
    /// What the VM is configured with: the seat.
    pub vm_configuration: Held<'a>,
    /// The name under which discovery gives it, if it does.
    pub extension: Option<&'a str>,
}

impl<'a> Wasm<'a> {
    /// The module in this message, if it is a Wasm filter and Holdfast's.
    pub fn of(at: &At<'a>) -> Option<Self> {
        let body = if at.is("Wasm") {
            at.clone()
        } else if at.is("TypedStruct") && at.text("type_url").is_some_and(|name| name.ends_with(".Wasm")) {
            at.get("value")?
        } else {
            return None;
        };
        let config = body.get("config")?;
        let wasm = Wasm {
            at: at.clone(),
            configuration: Held::of(config.get("configuration")),
            vm_configuration: Held::of(config.at(&["vm_config", "configuration"])),
            config,
            extension: None,
        };
        wasm.is_ours().then_some(wasm)
    }

    fn is_ours(&self) -> bool {
        let named = [self.config.text("name"), self.config.text("root_id"), self.vm_id()];
        let code = self.code();
        let from = [&["local", "filename"][..], &["remote", "http_uri", "uri"]];
        let file = code.iter().flat_map(|code| from.iter().filter_map(|way| code.at(way)?.node.text()));
        let holds = |held: &Held<'_>, key: &str| match held {
            Held::Struct(at, _) => at.node.get(key).is_some(),
            held => held.bytes().is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(&format!("\"{key}\""))),
        };
        named.contains(&Some(NAME))
            || file.into_iter().any(|name| name.contains(NAME))
            || holds(&self.configuration, "policies")
            || holds(&self.vm_configuration, "seat")
    }

    /// Its settings of the VM.
    pub fn vm(&self) -> Option<At<'a>> {
        self.config.get("vm_config")
    }

    /// The id of the VM's shared data.
    pub fn vm_id(&self) -> Option<&'a str> {
        self.vm()?.text("vm_id")
    }

    /// Where the module comes from.
    pub fn code(&self) -> Option<At<'a>> {
        self.vm()?.get("code")
    }

    /// The seat that its VM is told; none where that cannot be known or is wrong.
    pub fn told(&self) -> Option<Seat> {
        Seat::parse(&self.vm_configuration.bytes()?).ok()
    }
}

/// A filter in a list of filters.
#[derive(Debug, Clone)]
pub struct Filter<'a> {
    /// The filter.
    pub at: At<'a>,
    /// Its name.
    pub name: &'a str,
    /// The module, here or where the discovered configuration stands.
    pub wasm: Option<Wasm<'a>>,
    /// Whether it is Holdfast, by its configuration or by the name of one that is discovered.
    pub ours: bool,
}

impl<'a> Filter<'a> {
    /// This filter, with what is discovered under a name.
    pub fn of(at: At<'a>, discovered: &[(&'a str, Wasm<'a>)]) -> Self {
        let name = at.text("name").unwrap_or_default();
        let by_discovery = at.get("config_discovery").is_some();
        let wasm = at.get("typed_config").and_then(|config| Wasm::of(&config)).or_else(|| {
            let found = discovered.iter().find(|(known, _)| *known == name)?;
            by_discovery.then(|| found.1.clone())
        });
        let ours = wasm.is_some() || (by_discovery && name.split(['.', '-']).next() == Some(NAME));
        Filter { at, name, wasm, ours }
    }

    /// The last part of the name of its type.
    pub fn type_name(&self) -> Option<&'a str> {
        self.at.get("typed_config")?.type_name()
    }

    /// Whether it is of a type, by that or by Envoy's name for it.
    pub fn is(&self, kind: &str, name: &str) -> bool {
        self.type_name() == Some(kind) || (self.type_name().is_none() && self.name == name)
    }
}
