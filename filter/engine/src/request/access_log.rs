//! What the access log says of a request: the filter state `wasm.holdfast`.

use core::fmt::Write;

use crate::base::time::millis;
use crate::fallback::{CALL, Detour, Disposition, Failed, ROUTE, STALE, STATIC};
use crate::host::Host;
use crate::http::attempt::AttemptRecord;
use crate::http::outcome::Verdict;
use crate::outlier::hosts::Steering;
use crate::retry::Denial;

/// The filter state: `policy=orders; key=cluster=orders; decision=fallback; reason=open; kind=static`. The decision is one
/// of `admitted`, `probe`, `rejected`, `fallback`.
pub fn line(policy: &str, key: &str, disposition: Disposition) -> String {
    let mut line = String::with_capacity(96);
    line.push_str(OF_POLICY);
    line.push_str(policy);
    line.push_str("; key=");
    line.push_str(key);
    line.push_str("; decision=");
    let (decision, reason) = match disposition {
        Disposition::Admitted => ("admitted", None),
        Disposition::Probe => ("probe", None),
        Disposition::Rejected(reason) => ("rejected", Some(reason)),
        Disposition::Static(reason)
        | Disposition::Stale(reason, _)
        | Disposition::Route(reason)
        | Disposition::Call(reason) => ("fallback", Some(reason)),
    };
    line.push_str(decision);
    if let Some(reason) = reason {
        line.push_str("; reason=");
        line.push_str(reason.name());
    }
    match disposition {
        // Writing to a string cannot fail.
        Disposition::Static(_) => drop(write!(line, "; kind={STATIC}")),
        Disposition::Stale(_, age) => drop(write!(line, "; kind={STALE}; age={age}")),
        Disposition::Route(_) => drop(write!(line, "; kind={ROUTE}")),
        Disposition::Call(_) => drop(write!(line, "; kind={CALL}")),
        Disposition::Admitted | Disposition::Probe | Disposition::Rejected(_) => {}
    }
    line
}

/// What [`line()`] adds where fallbacks were asked that could not serve: `; failed=stale:nothing_kept`.
pub fn push_failed(line: &mut String, failed: &[Failed]) {
    for (index, Failed { kind, why }) in failed.iter().enumerate() {
        line.push_str(if index == 0 { "; failed=" } else { "," });
        line.push_str(kind);
        line.push(':');
        line.push_str(why.name());
    }
}

/// What [`line()`] adds where another cluster serves: `; cluster=standby`.
pub fn push_cluster(line: &mut String, cluster: &str) {
    line.push_str("; cluster=");
    line.push_str(cluster);
}

/// Adds to what the access log says of the request, where another policy governs it now, who has sent it there and why:
/// `; detour=orders:open`.
pub fn mark_detour(host: &dyn Host, policy: &str, detour: &Detour) {
    let Some(mut line) = read(host).and_then(|line| String::from_utf8(line).ok()) else { return };
    if line.contains(DETOUR) || policy_of(line.as_bytes()) == Some(policy.as_bytes()) {
        return;
    }
    line.push_str(DETOUR);
    line.push_str(policy);
    line.push(':');
    line.push_str(detour.context.reason.name());
    write(host, &line);
}

const DETOUR: &str = "; detour=";

/// The filter state of a request that a policy governs which is off: `policy=orders; decision=off`.
pub fn line_of_off(policy: &str) -> String {
    format!("{OF_POLICY}{policy}; decision=off")
}

/// The policy that a line is about; `None` if the line is none of these.
pub fn policy_of(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(OF_POLICY.as_bytes())?.split(|byte| *byte == b';').next()
}

/// What [`line()`] adds while hosts are out: `; probe=10.0.0.1:8080` for the request that is that host's probe, and
/// `; hosts_out=1/5`.
pub fn push_steering(line: &mut String, steering: Option<&Steering>) {
    let Some(steering) = steering.filter(|steering| !steering.is_plain()) else { return };
    if let Some((_, probe)) = &steering.probe {
        line.push_str("; probe=");
        line.push_str(probe);
    }
    // Writing to a string cannot fail.
    let _ = write!(line, "; hosts_out={}/{}", steering.out, steering.of);
}

/// What [`line()`] adds about attempts, if there is anything to say: `; attempts=10.0.0.1:80 failure:503 3ms, 10.0.0.2:80 success:200 5ms`,
/// and `; denied=budget` where another one was denied.
pub fn push_attempts(line: &mut String, attempts: &[AttemptRecord], denial: Option<Denial>) {
    for (number, one) in attempts.iter().enumerate() {
        line.push_str(if number == 0 { "; attempts=" } else { ", " });
        // What separates the parts may not occur in them.
        line.extend(one.host.iter().map(|byte| match byte {
            b'!'..=b'~' if !b",;".contains(byte) => char::from(*byte),
            _ => '_',
        }));
        let verdict = match one.verdict {
            Verdict::Success => "success",
            Verdict::Failure => "failure",
            Verdict::Ignored => "ignored",
        };
        // Writing to a string cannot fail.
        let _ = write!(line, " {verdict}:{} {}ms", one.end, millis(one.took));
    }
    if let Some(denial) = denial {
        line.push_str("; denied=");
        line.push_str(denial.name());
    }
}

/// The property that becomes the filter state.
const PROPERTY: &str = "holdfast";

/// What every line begins with.
const OF_POLICY: &str = "policy=";

/// What the access log says of the request so far; `None` if nothing was set.
pub fn read(host: &dyn Host) -> Option<Vec<u8>> {
    host.property(PROPERTY)
}

/// Sets what the access log says of the request.
pub fn write(host: &dyn Host, line: &str) {
    // Another filter may hold the name; the access log then lacks the line.
    let _ = host.set_property(PROPERTY, line.as_bytes());
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::base::time::Timestamp;
    use crate::fallback::Unserved;
    use crate::http::attempt::End;
    use holdfast_policy::document::Reason;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_line_says_what_became_of_the_request() {
        assert_eq!(line("p", "all", Disposition::Admitted), "policy=p; key=all; decision=admitted");
        assert_eq!(
            line("p", "cluster=c", Disposition::Static(Reason::Timeout)),
            "policy=p; key=cluster=c; decision=fallback; reason=timeout; kind=static"
        );
    }

    #[test]
    fn the_line_says_which_fallback_served_and_why_those_before_it_could_not() {
        let mut kept = line("p", "all", Disposition::Stale(Reason::Open, 12));
        push_failed(&mut kept, &[]);
        assert_eq!(kept, "policy=p; key=all; decision=fallback; reason=open; kind=stale; age=12");
        let mut fixed = line("p", "all", Disposition::Static(Reason::Failure));
        push_failed(&mut fixed, &[Failed { kind: "stale", why: Unserved::TooOld }]);
        assert_eq!(fixed, "policy=p; key=all; decision=fallback; reason=failure; kind=static; failed=stale:too_old");
        let mut none = line("p", "all", Disposition::Admitted);
        push_failed(&mut none, &[Unserved::Method, Unserved::Overflow].map(|why| Failed { kind: "stale", why }));
        assert_eq!(none, "policy=p; key=all; decision=admitted; failed=stale:method,stale:overflow");
    }

    #[test]
    fn every_line_says_whose_it_is() {
        assert_eq!(policy_of(line("p", "a;b", Disposition::Admitted).as_bytes()), Some(&b"p"[..]));
        assert_eq!(line_of_off("p-1"), "policy=p-1; decision=off");
        assert_eq!(policy_of(line_of_off("p-1").as_bytes()), Some(&b"p-1"[..]));
        assert_eq!(policy_of(b"of another filter"), None);
    }

    #[test]
    fn attempts_are_told_in_order_and_nothing_of_a_host_can_leave_its_place() {
        let one = |host: &[u8], end, verdict| AttemptRecord {
            host: host.to_vec(),
            end,
            verdict,
            took: Duration::from_millis(3),
            ended: Timestamp::ZERO,
            wish: None,
        };
        let attempts = [
            one(b"[::1]:80", End::Reset, Verdict::Failure),
            one(b"a;b, c", End::Grpc(14), Verdict::Ignored),
            one(b"", End::Http(200), Verdict::Success),
        ];
        let mut line = String::from("x");
        push_attempts(&mut line, &attempts, Some(Denial::RetryAfter));
        let expected =
            "x; attempts=[::1]:80 failure:reset 3ms, a_b__c ignored:grpc-14 3ms,  success:200 3ms; denied=retry_after";
        assert_eq!(line, expected);
        let mut alone = String::from("x");
        push_attempts(&mut alone, &[], None);
        assert_eq!(alone, "x");
    }
}
