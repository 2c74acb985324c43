//! What is asked for on the command line.

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, Command};

use crate::envoy::seat::Module;

/// A host and a port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// As it was given: short or in full.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The services.
    pub services: Vec<HostPort>,
    /// The user's resources.
    pub files: Vec<String>,
    /// Where the callers, or the gateway, are.
    pub namespace: Option<String>,
    /// For a gateway.
    pub gateway: bool,
    /// Labels of the pods that it is for.
    pub labels: Vec<(String, String)>,
    /// The policy document.
    pub policy: Option<String>,
    /// Where the module is.
    pub module: Module,
    /// In the patches themselves.
    pub inline: bool,
    /// The resource's name.
    pub name: Option<String>,
    /// The cluster's domain.
    pub domain: String,
    /// What the ports speak, where no resource says it.
    pub protocol: Option<String>,
}

/// The path at which a volume would have the module.
pub const FILE: &str = "/etc/holdfast/holdfast.wasm";

/// Reads the command line; leaves the process where that cannot be.
pub fn read() -> Request {
    let matches = command().get_matches();
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    let mut services = Vec::new();
    let mut files = Vec::new();
    for argument in matches.get_many::<String>("SERVICE").into_iter().flatten() {
        match host_port(argument) {
            Some(service) if files.is_empty() => services.push(service),
            _ => files.push(argument.clone()),
        }
    }
    if services.is_empty() {
        command()
            .error(clap::error::ErrorKind::MissingRequiredArgument, "the first argument must be a HOST:PORT")
            .exit();
    }
    let module = text("module").unwrap_or_else(|| FILE.to_owned());
    let module = if module.contains("://") {
        Module::Remote { uri: module, sha256: text("sha256") }
    } else {
        Module::File(module)
    };
    Request {
        services,
        files,
        namespace: text("namespace"),
        gateway: matches.get_flag("gateway"),
        labels: matches.get_many::<(String, String)>("label").into_iter().flatten().cloned().collect(),
        policy: text("policy"),
        module,
        inline: matches.get_flag("inline"),
        name: text("name"),
        domain: text("domain").unwrap_or_default(),
        protocol: text("protocol"),
    }
}

fn command() -> Command {
    let value = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name(name).help(help).value_parser(NonEmptyStringValueParser::new())
    };
    let flag = |id: &'static str, help: &'static str| Arg::new(id).long(id).help(help).action(ArgAction::SetTrue);
    Command::new("holdfast-add")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Prints the resources that put Holdfast before a service")
        .after_help("Exit codes: 0 printed (warnings included), 1 an error and nothing printed, 2 wrong usage.")
        .arg(flag("istio", "Istio's resources").required(true))
        .arg(
            Arg::new("SERVICE")
                .value_name("HOST:PORT... [RESOURCES.yaml...")
                .help("The services, then files with their resources (kubectl get -o yaml), - for standard input")
                .action(ArgAction::Append)
                .required(true),
        )
        .arg(value("namespace", "NS", "Where the callers are (or the gateway); else where the service is"))
        .arg(flag("gateway", "For a gateway instead of sidecars"))
        .arg(
            Arg::new("label")
                .long("label")
                .value_name("KEY=VALUE")
                .help("Only for pods with this label")
                .action(ArgAction::Append)
                .value_parser(label),
        )
        .arg(value("policy", "FILE", "The policy document; else one with every default"))
        .arg(value("module", "FILE", "The module: oci://, https://, or a path in the proxy's container"))
        .arg(value("sha256", "DIGEST", "What the module's SHA-256 must be").value_parser(digest))
        .arg(flag("inline", "The module in the patches themselves: needs --label, of pods that have the file"))
        .arg(value("name", "NAME", "The name of the resource"))
        .arg(value("domain", "DOMAIN", "The cluster's domain").default_value("cluster.local"))
        .arg(
            value("protocol", "PROTOCOL", "What the ports speak, where no resource is given")
                .value_parser(["http", "http2", "grpc"]),
        )
}

fn host_port(argument: &str) -> Option<HostPort> {
    let (host, port) = argument.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
    (!host.is_empty() && host.chars().all(good)).then(|| HostPort { host: host.to_ascii_lowercase(), port })
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

fn digest(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    if hex { Ok(text.to_owned()) } else { Err("must be 64 hexadecimal digits in lower case".to_owned()) }
}
