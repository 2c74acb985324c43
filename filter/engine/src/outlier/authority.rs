//! Which authority a heartbeat asks for, where the policy names none.
//!
//! It is the cluster's name, as for Envoy's own health checks. Where that is no valid one Envoy and every other proxy before the host
//! answer 400, which says nothing of the host.

use holdfast_policy::authority;

/// The authority for the hosts of `cluster`, of which one at `address` is asked.
///
/// Istio names its clusters `outbound|8080|v1|orders.default.svc.cluster.local`: direction, port, subset, service (Istio,
/// `BuildSubsetKey`). Of these it is the service's name without the port. A virtual host for `orders:8080` alone is rare, and one for
/// the plain name alone is not: Istio's have both, servers such as nginx do not look at the port, and certificates have none.
///
/// Where nothing in the name is a host, such as in `httproute/default/orders/rule/0`, it is the address: whoever knows no name for a
/// host sends that, a kubelet among them.
pub fn of<'a>(cluster: &'a str, address: &'a str) -> &'a str {
    if authority::is_valid(cluster) {
        return cluster;
    }
    istio_service(cluster).filter(|service| authority::is_valid(service)).unwrap_or(address)
}

/// The name of the service that an Istio cluster is for. That of `inbound|8080||`, which is what stands behind the proxy, is empty.
fn istio_service(cluster: &str) -> Option<&str> {
    let mut parts = cluster.split('|');
    let (direction, port, _subset, service) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_istios = matches!(direction, "outbound" | "inbound") && port.parse::<u16>().is_ok();
    (is_istios && parts.next().is_none()).then_some(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn it_is_a_name_of_the_service_wherever_there_is_one() {
        for (cluster, expected) in [
            ("orders", "orders"),
            ("orders:8080", "orders:8080"),
            ("orders.default.svc.cluster.local", "orders.default.svc.cluster.local"),
            ("outbound|8080||orders.default.svc.cluster.local", "orders.default.svc.cluster.local"),
            ("outbound|8080|v1|orders.default.svc.cluster.local", "orders.default.svc.cluster.local"),
            ("outbound|443||*.example.com", "*.example.com"),
            ("inbound|8080||orders.default.svc.cluster.local", "orders.default.svc.cluster.local"),
            (
                "outbound_.8080_._.orders.default.svc.cluster.local",
                "outbound_.8080_._.orders.default.svc.cluster.local",
            ),
        ] {
            assert_eq!(of(cluster, "10.0.0.1:8080"), expected, "{cluster}");
        }
    }

    #[test]
    fn without_one_it_is_the_hosts_address() {
        for cluster in [
            "inbound|8080||",
            "inbound-vip|8080|http|orders.default.svc.cluster.local",
            "outbound|8080||a|b",
            "outbound|8080|orders",
            "outbound|http||orders",
            "outbound|8080||a b",
            "httproute/default/orders/rule/0",
            "a b",
            "é",
            "",
        ] {
            for address in ["10.0.0.1:8080", "[2001:db8::1]:8080"] {
                assert_eq!(of(cluster, address), address, "{cluster}");
                assert!(authority::is_valid(address));
            }
        }
    }
}
