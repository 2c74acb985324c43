//! A listing of hosts as Envoy 1.40.0 writes it at `/clusters?format=json`, to the byte: one space for each level, what is 0 or
//! empty left out, all counters of each host. The benchmarks read it, and the tests of the in-process host.

use std::fmt::Write as _;

/// A host as the listing has it.
#[derive(Debug, Clone)]
pub struct Stands {
    /// Its IP address and port.
    pub address: String,
    /// Its priority; 0 is left out.
    pub priority: u8,
    /// The zone of its locality.
    pub zone: String,
    /// Its weight.
    pub weight: u32,
    /// Whether it fails Envoy's health check.
    pub is_unhealthy: bool,
}

const ZONES: [char; 4] = ['a', 'b', 'c', 'd'];

/// These hosts, half of them in each of two priorities and a quarter of each of these in each of four zones. All weigh the same.
pub fn spread(addresses: &[String]) -> Vec<Stands> {
    let (half, quarter) = (addresses.len().div_ceil(2), addresses.len().div_ceil(8));
    let stands = |(number, address): (usize, &String)| Stands {
        address: address.clone(),
        priority: u8::from(number >= half),
        zone: format!("eu-1{}", ZONES.get(number % half / quarter).unwrap_or(&'d')),
        weight: 1,
        is_unhealthy: false,
    };
    addresses.iter().enumerate().map(stands).collect()
}

/// The listing of clusters with these names and hosts.
pub fn listing(clusters: &[(String, Vec<Stands>)]) -> String {
    let all: Vec<String> = clusters.iter().map(|(name, hosts)| cluster(name, hosts)).collect();
    format!("{{\n \"cluster_statuses\": [\n{}\n ]\n}}\n", all.join(",\n"))
}

fn cluster(name: &str, hosts: &[Stands]) -> String {
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    let hosts = hosts.join(",\n");
    let threshold = |priority: &str| {
        format!(
            "     {{\n{priority}      \"max_connections\": 1024,\n      \"max_pending_requests\": 1024,\n      \
             \"max_requests\": 1024,\n      \"max_retries\": 3\n     }}"
        )
    };
    let (usual, high) = (threshold(""), threshold("      \"priority\": \"HIGH\",\n"));
    format!(
        "  {{\n   \"name\": \"{name}\",\n   \"host_statuses\": [\n{hosts}\n   ],\n   \"circuit_breakers\": {{\n    \
         \"thresholds\": [\n{usual},\n{high}\n    ]\n   }},\n   \"observability_name\": \"{name}\"\n  }}"
    )
}

/// The counters and gauges of a host, and what one that has served requests has there.
const COUNTERS: [(&str, &str); 6] = [
    ("cx_connect_fail", ""),
    ("cx_total", "12"),
    ("rq_error", ""),
    ("rq_success", "48211"),
    ("rq_timeout", ""),
    ("rq_total", "48213"),
];
const GAUGES: [(&str, &str); 3] = [("cx_active", "4"), ("rq_active", "2"), ("rq_pending_active", "")];

fn host(host: &Stands) -> String {
    let (ip, port) = host.address.rsplit_once(':').unwrap_or_default();
    let mut stats: Vec<String> = Vec::new();
    for (kind, all) in [("", &COUNTERS[..]), ("       \"type\": \"GAUGE\",\n", &GAUGES)] {
        for (name, value) in all {
            let value = if value.is_empty() { String::new() } else { format!("       \"value\": \"{value}\",\n") };
            stats.push(format!("      {{\n{kind}{value}       \"name\": \"{name}\"\n      }}"));
        }
    }
    let mut out = format!(
        "    {{\n     \"address\": {{\n      \"socket_address\": {{\n       \"address\": \"{ip}\",\n       \
         \"port_value\": {port}\n      }}\n     }},\n     \"stats\": [\n{}\n     ],\n     \"health_status\": {{\n",
        stats.join(",\n")
    );
    if host.is_unhealthy {
        out.push_str("      \"failed_active_health_check\": true,\n");
    }
    let _ = write!(out, "      \"eds_health_status\": \"HEALTHY\"\n     }},\n     \"weight\": {},\n", host.weight);
    if host.priority > 0 {
        let _ = writeln!(out, "     \"priority\": {},", host.priority);
    }
    let _ = write!(
        out,
        "     \"locality\": {{\n      \"region\": \"eu-1\",\n      \"zone\": \"{}\"\n     }}\n    }}",
        host.zone
    );
    out
}
