//! What is asked for on the command line.

use std::ffi::OsString;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, Command, value_parser};

use crate::envoy::seat::Module;

/// A host and a port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// As it was given: short or in full.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Whose resources are read and printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Istio's.
    Istio,
    /// Envoy Gateway's.
    EnvoyGateway,
    /// None: an Envoy's own files.
    Envoy,
}

/// Which proxies the resources are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Sidecars, for the requests of their applications.
    Sidecar,
    /// An ingress or egress gateway.
    Gateway,
    /// Sidecars, for the requests that come to their applications.
    Inbound,
    /// A waypoint of an ambient mesh.
    Waypoint,
}

/// How the filters come to the proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Each is a resource of its own, with a default that lets traffic through.
    Discovered,
    /// They stand in the patches.
    Inline,
    /// The request seat is a WasmPlugin.
    WasmPlugin,
    /// The request seat is a TrafficExtension.
    TrafficExtension,
}

impl Form {
    /// Whether a resource of Istio's own has the request seat.
    pub fn plugin(self) -> bool {
        matches!(self, Form::WasmPlugin | Form::TrafficExtension)
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose resources.
    pub platform: Platform,
    /// The services.
    pub services: Vec<HostPort>,
    /// The user's resources.
    pub files: Vec<String>,
    /// The clusters of Envoy's own files.
    pub clusters: Vec<String>,
    /// Whether the files are changed in their place.
    pub write: bool,
    /// Where the changed file goes instead.
    pub output: Option<String>,
    /// Where the callers, or the gateway, are.
    pub namespace: Option<String>,
    /// Which proxies it is for.
    pub proxy: Proxy,
    /// The waypoint's name, where it was given.
    pub waypoint: Option<String>,
    /// For every service, whatever there is.
    pub all: bool,
    /// Labels of the pods that it is for.
    pub labels: Vec<(String, String)>,
    /// The policy document.
    pub policy: Option<String>,
    /// Where the module is.
    pub module: Module,
    /// Whether that was said.
    pub module_given: bool,
    /// How the filters come to the proxies.
    pub form: Form,
    /// Without the attempt seat.
    pub request_only: bool,
    /// As values for the Helm chart.
    pub helm: bool,
    /// The pods' port, where a Service has a name for it.
    pub target_port: Option<u16>,
    /// The resource's name.
    pub name: Option<String>,
    /// The cluster's domain.
    pub domain: String,
    /// What the ports speak, where no resource says it.
    pub protocol: Option<String>,
}

/// What the command is called in the program that has all of them.
pub const NAME: &str = "holdfast add";

/// The path at which a volume would have the module.
pub const FILE: &str = "/etc/holdfast/holdfast.wasm";

/// Reads the command line; leaves the process where that cannot be.
pub fn read(arguments: &[OsString]) -> Request {
    let matches = command().get_matches_from(arguments);
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    let flag = |id: &str| matches.get_flag(id);
    let wrong = |message: &str| -> ! { command().error(ErrorKind::ArgumentConflict, message).exit() };
    let clusters: Vec<String> = matches.get_many::<String>("cluster").into_iter().flatten().cloned().collect();
    let platform = match (flag("istio"), flag("envoy-gateway")) {
        (true, _) => Platform::Istio,
        (_, true) => Platform::EnvoyGateway,
        _ if !clusters.is_empty() => Platform::Envoy,
        _ => wrong("say --cluster NAME for an Envoy's own configuration, or --istio, or --envoy-gateway"),
    };
    let mut services = Vec::new();
    let mut files = Vec::new();
    for argument in matches.get_many::<String>("SERVICE").into_iter().flatten() {
        match host_port(argument) {
            Some(service) if files.is_empty() && platform != Platform::Envoy => services.push(service),
            _ => files.push(argument.clone()),
        }
    }
    let all = flag("all");
    if platform == Platform::Envoy {
        if files.is_empty() {
            wrong("give the Envoy configuration, such as envoy.yaml");
        }
    } else if services.is_empty() && !all {
        wrong("the first argument must be a HOST:PORT");
    }
    if all && (!services.is_empty() || !files.is_empty() || text("namespace").is_none()) {
        wrong(
            "--all takes no HOST:PORT and no resources, and needs --namespace (the callers' one, or the root namespace)",
        );
    }
    let proxy = match (flag("gateway"), flag("inbound"), matches.contains_id("waypoint")) {
        (true, ..) => Proxy::Gateway,
        (_, true, _) => Proxy::Inbound,
        (.., true) => Proxy::Waypoint,
        _ => Proxy::Sidecar,
    };
    let form = match (flag("inline"), flag("wasm-plugin"), flag("traffic-extension")) {
        (true, ..) => Form::Inline,
        (_, true, _) => Form::WasmPlugin,
        (.., true) => Form::TrafficExtension,
        _ => Form::Discovered,
    };
    let module_given = matches.contains_id("module");
    let module = text("module").unwrap_or_else(|| FILE.to_owned());
    let module = if module.contains("://") {
        Module::Remote { uri: module, sha256: text("sha256") }
    } else {
        Module::File(module)
    };
    Request {
        platform,
        clusters,
        write: flag("write"),
        output: text("output"),
        services,
        files,
        namespace: text("namespace"),
        proxy,
        waypoint: text("waypoint"),
        all,
        labels: matches.get_many::<(String, String)>("label").into_iter().flatten().cloned().collect(),
        policy: text("policy"),
        module,
        module_given,
        form,
        request_only: flag("request-only"),
        helm: flag("helm"),
        target_port: matches.get_one::<u16>("target-port").copied(),
        name: text("name"),
        domain: text("domain").unwrap_or_default(),
        protocol: text("protocol"),
    }
}

/// The command with these arguments, of which the first is its name, as comment lines that a shell takes.
pub fn again(arguments: &[OsString]) -> String {
    const WIDTH: usize = 126;
    let quoted = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''").replace('\n', " "))
        }
    };
    let name =
        arguments.first().and_then(|name| name.to_str()).filter(|name| *name == NAME).unwrap_or("./build.sh add");
    let mut out = format!("# {name}");
    let mut column = out.len();
    for argument in arguments.iter().skip(1).map(|argument| quoted(argument.to_string_lossy().into_owned())) {
        if column + argument.len() + 1 > WIDTH {
            out.push_str(" \\\n#  ");
            column = 3;
        }
        out.push(' ');
        out.push_str(&argument);
        column += argument.len() + 1;
    }
    out
}

fn command() -> Command {
    let value = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name(name).help(help).value_parser(NonEmptyStringValueParser::new())
    };
    let flag = |id: &'static str, help: &'static str| Arg::new(id).long(id).help(help).action(ArgAction::SetTrue);
    Command::new("holdfast-add")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Puts Holdfast into an Envoy configuration, or prints the resources that put it before a service")
        .after_help("Exit codes: 0 done (warnings included), 1 an error and nothing printed or written, 2 wrong usage.")
        .arg(flag("istio", "Istio's resources"))
        .arg(flag(
            "envoy-gateway",
            "Envoy Gateway's resources: a Gateway, routes and their policies are among the files",
        ))
        .group(ArgGroup::new("platform").args(["istio", "envoy-gateway"]).multiple(false))
        .arg(
            Arg::new("SERVICE")
                .value_name("ENVOY.yaml... | HOST:PORT... [RESOURCES.yaml...")
                .help(
                    "Envoy's own configuration with --cluster; else services, then files with their resources (kubectl get -o \
                     yaml). - for standard input",
                )
                .action(ArgAction::Append),
        )
        .arg(
            value("cluster", "NAME", "Before this cluster of an Envoy's own configuration; may be given several times")
                .action(ArgAction::Append)
                .conflicts_with_all([
                    "istio", "envoy-gateway", "namespace", "proxy", "label", "form", "sha256", "helm", "target-port", "name",
                    "protocol",
                ]),
        )
        .arg(flag("write", "Change the Envoy configuration in its place; else a diff is shown").requires("cluster"))
        .arg(
            value("output", "FILE", "Write the changed Envoy configuration there, - for standard output")
                .requires("cluster")
                .conflicts_with("write"),
        )
        .arg(flag(
            "all",
            "For every service that callers in a namespace reach: breaker, retry, fallback, without steering",
        ))
        .arg(value("namespace", "NS", "Where the callers are (or the gateway); else where the service is"))
        .arg(flag("gateway", "For a gateway: its resource is among the files, or its pods have the --label"))
        .arg(flag("inbound", "For the service's own pods: before the application"))
        .arg(
            value("waypoint", "NAME", "For a waypoint; its name, or its Gateway is among the files")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("*"),
        )
        .group(ArgGroup::new("proxy").args(["gateway", "inbound", "waypoint", "all"]))
        .arg(
            Arg::new("label")
                .long("label")
                .value_name("KEY=VALUE")
                .help("Only for pods with this label")
                .action(ArgAction::Append)
                .value_parser(label),
        )
        .arg(value("policy", "FILE", "The policy document; else one with every default"))
        .arg(
            value("module", "FILE", "The module: oci://, https://, or a path in the proxy's container")
                .value_parser(module),
        )
        .arg(value("sha256", "DIGEST", "What the module's SHA-256 must be").value_parser(digest))
        .arg(flag(
            "inline",
            "The filters in the patches themselves: needs --label, of pods that have the module's file",
        ))
        .arg(flag("wasm-plugin", "The request seat as a WasmPlugin"))
        .arg(flag("traffic-extension", "The request seat as a TrafficExtension"))
        .group(ArgGroup::new("form").args(["inline", "wasm-plugin", "traffic-extension"]))
        .arg(flag("request-only", "The request seat alone"))
        .arg(flag("helm", "Print the values of the chart envoy/helm/holdfast instead").conflicts_with_all([
            "waypoint",
            "all",
            "wasm-plugin",
            "traffic-extension",
            "request-only",
        ]))
        .arg(
            Arg::new("target-port")
                .long("target-port")
                .value_name("PORT")
                .help("The pods' port for --inbound, where the Service has a name for it")
                .value_parser(value_parser!(u16).range(1..)),
        )
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

fn module(text: &str) -> Result<String, String> {
    let remote = ["oci://", "https://", "http://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if remote || (text.starts_with('/') && !text.contains("://")) {
        Ok(text.to_owned())
    } else {
        Err("must be oci://REGISTRY/NAME:TAG, an http(s) address, or an absolute path in the proxy's container"
            .to_owned())
    }
}

fn digest(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    if hex { Ok(text.to_owned()) } else { Err("must be 64 hexadecimal digits in lower case".to_owned()) }
}
