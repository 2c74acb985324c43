//! The program as a user runs it: what it refuses, with the file, the document and the field, and what it says beside its output.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program with `input` as its standard input.
fn run(arguments: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-add"))
        .arg("--istio")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The lines without the line and column behind the file's name.
fn without_positions(lines: &str) -> String {
    const NAME: &str = "standard input:";
    let behind = |part: &str| part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').to_owned();
    let mut parts = lines.split(NAME);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + NAME + &behind(part))
}

/// Exactly these lines, no output, and exit code 1.
#[track_caller]
fn refused(arguments: &[&str], input: &str, lines: &[&str]) {
    let run = run(arguments, input);
    let noun = if lines.len() == 1 { "error" } else { "errors" };
    let expected = format!("{}\n{} {noun}, nothing printed\n", lines.join("\n"), lines.len());
    assert_eq!((run.stdout.as_str(), without_positions(&run.stderr).as_str()), ("", expected.as_str()));
    assert_eq!(run.code, Some(1));
}

/// Printed, with exactly these warnings.
#[track_caller]
fn printed(arguments: &[&str], input: &str, warnings: &[&str]) -> String {
    let run = run(arguments, input);
    let expected = warnings.iter().map(|line| format!("warning: {line}\n")).collect::<String>();
    assert_eq!(without_positions(&run.stderr), expected);
    assert_eq!(run.code, Some(0));
    run.stdout
}

/// The service `orders` in `shop` with one port, of which `port` says more.
fn service(port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: orders, namespace: shop}}\nspec:\n  clusterIP: 10.0.0.1\n  \
         selector: {{app: orders}}\n  ports:\n  - {{port: 8080, {port}}}\n---\n"
    )
}

/// A DestinationRule for it, called `name`.
fn rule(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

const ORDERS: &[&str] = &["orders.shop:8080", "-"];
const RULE: &str = "standard input: document 2 (DestinationRule shop/orders): spec";

#[track_caller]
fn refused_rule(spec: &str, field: &str, problem: &str) {
    let input = service("name: http") + &rule("orders", spec);
    refused(ORDERS, &input, &[&format!("{RULE}{field}: {problem}")]);
}

/// Where an editor goes to: the value that is wrong, or the last part of the path to it that is there.
#[test]
fn every_line_names_the_line_and_column() {
    let lines = |input: &str| run(ORDERS, input).stderr;
    let rule = rule("orders", "\n  host: orders\n  trafficPolicy:\n    loadBalancer: {simple: FAST}\n    tls: {}");
    let found = lines(&(service("name: http") + &rule));
    assert!(found.contains("standard input:16:20: document 2 (DestinationRule shop/orders): spec.trafficPolicy.loadBalancer.simple: must"), "{found}");
    let found = lines(&(service("name: http") + &rule.replace("host: orders\n", "hosts: x\n")));
    assert!(
        found.contains("standard input:13:1: document 2 (DestinationRule shop/orders): spec.host: is missing"),
        "{found}"
    );
    // In a list, as kubectl prints it, each has its own.
    let list = service("name: http")
        .replace("port: 8080, name: http", "port: 0")
        .trim_end_matches("---\n")
        .replace('\n', "\n  ");
    let found = lines(&format!("apiVersion: v1\nkind: List\nitems:\n- {list}"));
    assert!(
        found.contains("standard input:11:8: document 1 (Service shop/orders): spec.ports[0].port: must"),
        "{found}"
    );
}

#[test]
fn an_unknown_service_is_refused() {
    let line = "stock.shop:8080: no Service or ServiceEntry of these resources is this host (they are orders.shop.svc.cluster.local)";
    refused(&["stock.shop:8080", "-"], &service("name: http"), &[line]);
    let line = "standard input: document 1 (Service shop/orders): spec.ports: has no port 80 (it has 8080)";
    refused(&["orders.shop:80", "-"], &service("name: http"), &[line]);
}

#[test]
fn a_port_that_is_not_http_is_refused() {
    let place = "standard input: document 1 (Service shop/orders): spec.ports[0]: port 8080";
    let cure = "name it http, http2 or grpc (or http-...), or set appProtocol, if it does";
    for (port, protocol) in [("name: tcp-x", "TCP"), ("name: redis", "Redis"), ("name: http, protocol: UDP", "UDP")] {
        refused(ORDERS, &service(port), &[&format!("{place} speaks {protocol}, not HTTP: {cure}")]);
    }
    let https = "is HTTPS, made by the application: Envoy sees no requests in it. A DestinationRule with tls.mode SIMPLE makes TLS of HTTP";
    refused(ORDERS, &service("name: https"), &[&format!("{place} {https}")]);
}

#[test]
fn a_rule_for_another_host_is_refused() {
    let problem = "is for stock.shop.svc.cluster.local, and the services here are orders.shop.svc.cluster.local";
    refused_rule("{host: stock}", ".host", problem);
    refused_rule("{trafficPolicy: {}}", ".host", "is missing");
}

#[test]
fn a_field_that_is_not_known_is_refused() {
    let known = "is not known here (known: simple, consistentHash, warmupDurationSecs, warmup, localityLbSetting, zoneAwareLbSetting)";
    refused_rule(
        "{host: orders, trafficPolicy: {loadBalancer: {leastRequest: {}}}}",
        ".trafficPolicy.loadBalancer.leastRequest",
        known,
    );
}

#[test]
fn values_that_istio_would_refuse_are_refused() {
    let balancer = ".trafficPolicy.loadBalancer";
    let spec = |balancer: &str| format!("{{host: orders, trafficPolicy: {{loadBalancer: {balancer}}}}}");
    let words = "must be one of UNSPECIFIED, LEAST_CONN, LEAST_REQUEST, RANDOM, ROUND_ROBIN, PASSTHROUGH, was \"FAST\"";
    refused_rule(&spec("{simple: FAST}"), &format!("{balancer}.simple"), words);
    let one = "must have exactly one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName";
    refused_rule(&spec("{consistentHash: {}}"), &format!("{balancer}.consistentHash"), one);
    let duration = "must be a duration such as \"1.5s\", \"250ms\" or \"1h30m\", was 30";
    refused_rule(&spec("{warmup: {duration: 30}}"), &format!("{balancer}.warmup.duration"), duration);
    refused_rule(&spec("{warmup: {}}"), &format!("{balancer}.warmup.duration"), "is missing");
    let both = "contradicts simple beside it: a loadBalancer has one of the two";
    refused_rule(
        &spec("{simple: RANDOM, consistentHash: {useSourceIp: true}}"),
        &format!("{balancer}.consistentHash"),
        both,
    );
    let table = "is missing";
    refused_rule(
        &spec("{consistentHash: {useSourceIp: true, maglev: {}}}"),
        &format!("{balancer}.consistentHash.maglev.tableSize"),
        table,
    );
}

#[test]
fn resources_that_contradict_each_other_are_refused() {
    let first = rule("orders", "{host: orders, trafficPolicy: {loadBalancer: {simple: RANDOM}}}");
    let second =
        rule("again", "{host: orders.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}");
    let line = "standard input: document 3 (DestinationRule shop/again): spec.trafficPolicy: contradicts standard input: document 2 \
        (DestinationRule shop/orders): Istio takes one trafficPolicy for orders.shop.svc.cluster.local, and no one can say which";
    refused(ORDERS, &(service("name: http") + &first + &second), &[line]);

    let line = "standard input: document 2 (Service shop/orders): spec.ports[0]: port 8080 of orders.shop.svc.cluster.local speaks \
        something else in standard input: document 1 (Service shop/orders)";
    refused(ORDERS, &(service("name: http") + &service("name: grpc")), &[line]);

    let twice = "{host: orders, subsets: [{name: v1}, {name: v1}]}";
    refused_rule(twice, ".subsets[1].name", "there is a subset v1 already");
    let twice = "{host: orders, trafficPolicy: {portLevelSettings: [{port: {number: 8080}}, {port: {number: 8080}}]}}";
    refused_rule(twice, ".trafficPolicy.portLevelSettings[1]", "port 8080 has settings already");
}

#[test]
fn all_errors_are_told_at_once() {
    let spec = "{host: orders, trafficPolicy: {loadBalancer: {simple: FAST}, connectionPool: {http: {idleTimeout: x, what: 1}}}}";
    let run = run(ORDERS, &(service("name: http") + &rule("orders", spec)));
    assert_eq!(run.stdout, "");
    assert!(run.stderr.ends_with("\n3 errors, nothing printed\n"), "{}", run.stderr);
}

#[test]
fn what_is_no_resource_is_refused() {
    refused(
        ORDERS,
        "a: b\n",
        &["standard input: document 1: is no Kubernetes resource: apiVersion and kind are missing"],
    );
    let run = run(ORDERS, "a: [\n");
    assert!(run.stderr.starts_with("standard input:1:4: is no YAML: "), "{}", run.stderr);
    let line = "no-such-file.yaml: cannot be read: No such file or directory (os error 2)";
    refused(&["orders.shop:8080", "no-such-file.yaml"], "", &[line]);
}

#[test]
fn an_alias_is_refused() {
    let input = service("name: http").replace("clusterIP: 10.0.0.1", "type: ExternalName");
    let line = "standard input: document 1 (Service shop/orders): spec.type: ExternalName is an alias: ask for the service that it stands for";
    refused(ORDERS, &input, &[line]);
}

#[test]
fn a_host_of_two_namespaces_must_be_given_in_full() {
    let input = service("name: http") + &service("name: http").replace("namespace: shop", "namespace: test");
    let line = "orders:8080: could be each of orders.shop.svc.cluster.local in shop, orders.test.svc.cluster.local in test: give it in full";
    refused(&["orders:8080", "-"], &input, &[line]);
}

#[test]
fn without_resources_the_protocol_must_be_said() {
    let line = "orders.shop.svc.cluster.local:8080: give its resources (kubectl get service,destinationrule,virtualservice -o yaml), so \
        that nothing that they say is lost, or --protocol if there are none";
    refused(&["orders.shop.svc.cluster.local:8080"], "", &[line]);
    let text = printed(&["orders.shop.svc.cluster.local:8080", "--protocol", "grpc"], "", &[]);
    assert!(text.contains("http2_protocol_options: {}"), "{text}");
}

#[test]
fn each_way_in_says_what_it_needs() {
    let needs =
        |flag: &[&str], line: &str| refused(&[ORDERS, flag].concat(), &service("name: http, targetPort: web"), &[line]);
    let inline = "--inline needs --label KEY=VALUE, a label that pods with the module's file have: a pod without the file loses the service";
    needs(&["--inline"], inline);
    needs(&["--gateway"], "--gateway needs the Gateway among the resources, or --label KEY=VALUE of its pods");
    needs(
        &["--waypoint"],
        "--waypoint needs the waypoint's Gateway among the resources, one of class istio-waypoint, or its name",
    );
    let inbound = "standard input: document 1 (Service shop/orders): spec.ports[0].targetPort: targetPort web is a name that its pods give \
        to a port: say which with --target-port";
    needs(&["--inbound"], inbound);
    let text = printed(
        &["orders.shop:8080", "-", "--inbound", "--target-port", "3000"],
        &service("name: http, targetPort: web"),
        &[],
    );
    assert!(text.contains("portNumber: 3000") && text.contains("inbound|3000||"), "{text}");
}

#[test]
fn wrong_arguments_are_a_question_of_usage() {
    for arguments in [
        &["orders"][..],
        &["orders:0"],
        &["orders:8080", "--module", "holdfast.wasm"],
        &["orders:8080", "--module", "ftp://x/y"],
        &["orders:8080", "--sha256", "abc"],
        &["orders:8080", "--gateway", "--inbound"],
        &["orders:8080", "--inline", "--wasm-plugin"],
        &["--all"],
        &["orders:8080", "--all", "--namespace", "shop"],
    ] {
        let run = run(arguments, "");
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.starts_with("error: "), "{arguments:?}: {}", run.stderr);
    }
}

/// A file with a policy document, gone at the end.
struct Policy(std::path::PathBuf);

impl Policy {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-add-{}-{name}.json", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Policy(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_wrong_policy_is_refused_as_check_does() {
    let policy = Policy::new("wrong", r#"{"policies": [{"name": "a", "breaker": {"failure_rate": 140}}]}"#);
    let line = format!("{}:1:41: policies[0].breaker.failure_rate: must be within 0..=100, was 140", policy.path());
    refused(&["orders.shop:8080", "-", "--policy", policy.path()], &service("name: http"), &[&line]);
}

#[test]
fn a_policy_is_bound_to_the_clusters_unless_it_names_some() {
    let text = r#"{"policies": [{"breaker": {}, "name": "a"}, {"name": "b", "match": {"path": ["/x/**"]}, "breaker": {}},
        {"name": "c", "match": {"cluster": ["stock"]}, "breaker": {}}]}"#;
    let policy = Policy::new("bound", text);
    let warning = format!(
        "{}: policies[2].match.cluster: matches none of the clusters here: \"outbound|8080|*|orders.shop.svc.cluster.local\"",
        policy.path()
    );
    let text = printed(&["orders.shop:8080", "-", "--policy", policy.path()], &service("name: http"), &[&warning]);
    let bound = r#""cluster": ["outbound|8080|*|orders.shop.svc.cluster.local"]"#;
    assert_eq!(text.matches(bound).count(), 2, "{text}");
    assert!(text.contains(r#""cluster": ["stock"]"#), "{text}");
    // Nothing retries, so the cluster gets no retry policy.
    assert!(!text.contains("retry_policy"), "{text}");
}

#[test]
fn what_stands_beside_holdfast_is_said() {
    let spec = "{host: orders, trafficPolicy: {outlierDetection: {}, connectionPool: {http: {maxRetries: 3}}}}";
    let warnings = [
        "outbound|8080||orders.shop.svc.cluster.local: connectionPool.http.maxRetries lets 3 retries be in flight, whatever the policy's \
         budget says",
        "orders.shop.svc.cluster.local: outlierDetection ejects hosts beside the policy's outlier: with consecutive5xxErrors: 0 and \
         consecutiveGatewayErrors: 0 it keeps locality failover and ejects nothing",
    ];
    printed(ORDERS, &(service("name: http") + &rule("orders", spec)), &warnings);
    let sniffed = "orders.shop.svc.cluster.local: port 8080 says no protocol: Istio looks at what comes, and only what looks like HTTP is \
        governed";
    printed(ORDERS, &service("name: web"), &[sniffed]);
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: shop}\n";
    let ignored = "standard input: document 2 (Deployment shop/x): is of no matter here and was not read";
    printed(ORDERS, &(service("name: http") + other), &[ignored]);
}

/// Hosts of another region are known to a policy only if it reads them.
#[test]
fn where_localities_are_priorities_the_policy_reads_its_hosts() {
    let fails_over = "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 0}";
    let input = service("name: http")
        + &rule("orders", &format!("{{host: orders, trafficPolicy: {{outlierDetection: {fails_over}}}}}"));
    let text = printed(ORDERS, &input, &[]);
    assert!(text.contains(r#""cluster": "prometheus_stats""#), "{text}");
    assert!(text.contains(r#""path": "/clusters?format=json&filter=orders.shop.svc.cluster.local""#), "{text}");
    let without = printed(ORDERS, &service("name: http"), &[]);
    assert!(!without.contains("discover\""), "{without}");

    let policy = Policy::new("learns", r#"{"policies": [{"name": "a", "outlier": {}}]}"#);
    let said = "orders.shop.svc.cluster.local: outlierDetection gives its hosts priorities by locality, which outlier knows by discover \
        only: without it nobody fails over while hosts are out";
    printed(&["orders.shop:8080", "-", "--policy", policy.path()], &input, &[said]);
}

#[test]
fn a_mirror_without_an_attempt_seat_is_said() {
    let copies = "copy.shop.svc.cluster.local gets copies of these requests, and while a host is out their x-holdfast-hosts with \
        the addresses of the others: ask for it too, and its clusters get an attempt seat, which takes that off";
    let copy = service("name: http").replace("name: orders", "name: copy");
    for mirror in ["mirror: {host: copy}", "mirrors: [{destination: {host: copy, port: {number: 8080}}}]"] {
        let route = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x, namespace: shop}}\nspec:\n  hosts: [orders]\n  \
             http:\n  - route: [{{destination: {{host: orders}}}}]\n    {mirror}\n"
        );
        let input = service("name: http") + &copy + &route;
        let warning = format!("standard input: document 3 (VirtualService shop/x): spec.http[0]: {copies}");
        printed(ORDERS, &input, &[&warning]);
        printed(&["orders.shop:8080", "--request-only", "-"], &input, &[]);
        let text = printed(&["orders.shop:8080", "copy.shop:8080", "-"], &input, &[]);
        assert_eq!(text.matches("applyTo: CLUSTER").count(), 2);
    }
}

#[test]
fn a_list_is_read_like_its_items() {
    let items = service("name: http");
    let text = printed(ORDERS, &items, &[]);
    let list = "apiVersion: v1\nkind: List\nitems:\n- ".to_owned()
        + &items.trim_end_matches("---\n").trim_end().replace('\n', "\n  ");
    assert_eq!(printed(ORDERS, &list, &[]), text);
}

#[test]
fn several_services_of_a_port_share_one_filter() {
    let input = service("name: http") + &service("name: http2").replace("name: orders", "name: stock");
    let text = printed(&["orders.shop:8080", "stock.shop:8080", "-"], &input, &[]);
    assert_eq!(text.matches("applyTo: HTTP_FILTER").count(), 1);
    assert_eq!(text.matches("applyTo: CLUSTER").count(), 2);
    assert!(text.contains("name: holdfast-orders.shop-8080-stock.shop-8080\n"), "{text}");
    assert!(text.contains(r#""name": "orders""#) && text.contains(r#""name": "stock""#), "{text}");
}

#[test]
fn a_route_through_another_port_brings_its_listener() {
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: shop}\nspec:\n  hosts: [front]\n  \
        http:\n  - match: [{port: 80}]\n    route: [{destination: {host: orders, port: {number: 8080}}}]\n    retries: {attempts: 0}\n";
    let text = printed(ORDERS, &(service("name: http") + route), &[]);
    assert!(text.contains("portNumber: 80\n") && text.contains("portNumber: 8080\n"), "{text}");
    // The route retries nothing without Holdfast, and so does the cluster.
    assert!(text.contains("retry_policy") && !text.contains("retry_on"), "{text}");
}
