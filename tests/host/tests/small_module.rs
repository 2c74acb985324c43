//! A module in a few lines, for what the shipped one does not do of the host.

/// Header maps as the ABI lays them out, as a string of WebAssembly text.
fn laid_out(pairs: &[(&str, &str)]) -> (String, usize) {
    let mut bytes = Vec::new();
    bytes.extend((pairs.len() as u32).to_le_bytes());
    for (name, value) in pairs {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(part.bytes());
        bytes.push(0);
    }
    (bytes.iter().map(|byte| format!("\\{byte:02x}")).collect(), bytes.len())
}

const IMPORTS: &str = r#"
    (import "env" "proxy_http_call"
        (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_tick_period_milliseconds" (func $period (param i32) (result i32)))
    (memory (export "memory") 2)
    (global $free (mut i32) (i32.const 65536))
    (func (export "malloc") (param i32) (result i32)
        (global.get $free)
        (global.set $free (i32.add (global.get $free) (local.get 0))))
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_context_create") (param i32 i32))"#;

/// A module that does nothing.
pub fn passive() -> Vec<u8> {
    wat::parse_str(format!("(module {IMPORTS})")).unwrap()
}

/// A module whose request seat has each of these tick periods, in milliseconds, for one tick; what it sets is seen by
/// rules. The attempt seat has them too if `in_both`.
pub fn ticking(periods: &[u32], in_both: bool) -> Vec<u8> {
    let words: String =
        periods.iter().flat_map(|period| period.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let (last, in_attempt_seat) = (periods.len() - 1, u32::from(in_both));
    wat::parse_str(format!(
        r#"(module {IMPORTS}
            (data (i32.const 1024) "{words}")
            (global $ticks (mut i32) (i32.const 0))
            (func $next
                (drop (call $period (i32.load (i32.add (i32.const 1024) (i32.mul (i32.const 4) (global.get $ticks))))))
                (if (i32.lt_u (global.get $ticks) (i32.const {last}))
                    (then (global.set $ticks (i32.add (global.get $ticks) (i32.const 1))))))
            (func (export "proxy_on_configure") (param i32 i32) (result i32)
                (if (i32.or (i32.ne (local.get 1) (i32.const 0)) (i32.const {in_attempt_seat})) (then (call $next)))
                (i32.const 1))
            (func (export "proxy_on_tick") (param i32) (call $next)))"#
    ))
    .unwrap()
}

/// A module that makes a call.
pub struct Calling {
    pub cluster: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: &'static str,
    pub timeout_ms: i32,
    /// Milliseconds.
    pub every: u32,
    /// It is the attempt seat that makes it.
    pub in_attempt_seat: bool,
    /// Whether it can be told of answers.
    pub hears: bool,
}

impl Default for Calling {
    fn default() -> Self {
        Calling {
            cluster: "orders",
            headers: vec![(":method", "GET"), (":path", "/healthz"), (":authority", "shop.example")],
            body: "",
            timeout_ms: 2000,
            every: 1000,
            in_attempt_seat: false,
            hears: true,
        }
    }
}

impl Calling {
    /// Of each call it leaves status and token in `sent`; of each answer it leaves token, sizes and how many there were in
    /// `told`, and what it can read in `status`, `body` and `trailer`. The attempt seat adds `x-seen` to each attempt.
    pub fn module(&self) -> Vec<u8> {
        let Calling { cluster, body, timeout_ms, every, hears, .. } = self;
        let (headers, headers_size) = laid_out(&self.headers);
        let (cluster_size, body_size) = (cluster.len(), body.len());
        let is_caller = if self.in_attempt_seat { "i32.eqz" } else { "i32.ne (i32.const 0)" };
        let told = if *hears { "proxy_on_http_call_response" } else { "another_export" };
        wat::parse_str(format!(
            r#"(module {IMPORTS}
                (data (i32.const 1024) "{cluster}")
                (data (i32.const 1280) "{body}")
                (data (i32.const 2048) "{headers}")
                (data (i32.const 512) "sent")
                (data (i32.const 520) "told")
                (data (i32.const 528) "status")
                (data (i32.const 536) "body")
                (data (i32.const 544) "trailer")
                (data (i32.const 552) ":status")
                (data (i32.const 560) "x-trailer")
                (data (i32.const 576) "x-seen")
                (data (i32.const 584) "yes")
                (global $is_attempt (mut i32) (i32.const 0))
                (global $told (mut i32) (i32.const 0))
                (func (export "proxy_on_configure") (param i32 i32) (result i32)
                    (global.set $is_attempt (i32.eqz (local.get 1)))
                    (if ({is_caller} (local.get 1)) (then (drop (call $period (i32.const {every})))))
                    (i32.const 1))
                (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                    (if (global.get $is_attempt) (then
                        (drop (call $add (i32.const 0) (i32.const 576) (i32.const 6) (i32.const 584) (i32.const 3)))))
                    (i32.const 0))
                (func (export "proxy_on_tick") (param i32)
                    (i32.store (i32.const 0) (call $call
                        (i32.const 1024) (i32.const {cluster_size}) (i32.const 2048) (i32.const {headers_size})
                        (i32.const 1280) (i32.const {body_size}) (i32.const 0) (i32.const 0)
                        (i32.const {timeout_ms}) (i32.const 4)))
                    (drop (call $set (i32.const 512) (i32.const 4) (i32.const 0) (i32.const 8) (i32.const 0))))
                (func (export "{told}") (param i32 i32 i32 i32 i32)
                    (global.set $told (i32.add (global.get $told) (i32.const 1)))
                    (i32.store (i32.const 32) (local.get 1))
                    (i32.store (i32.const 36) (local.get 2))
                    (i32.store (i32.const 40) (local.get 3))
                    (i32.store (i32.const 44) (local.get 4))
                    (i32.store (i32.const 48) (global.get $told))
                    (drop (call $set (i32.const 520) (i32.const 4) (i32.const 32) (i32.const 20) (i32.const 0)))
                    (call $keep (i32.const 528) (i32.const 6) (call $header
                        (i32.const 6) (i32.const 552) (i32.const 7) (i32.const 64) (i32.const 68)))
                    (call $keep (i32.const 536) (i32.const 4) (call $buffer
                        (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 64) (i32.const 68)))
                    (call $keep (i32.const 544) (i32.const 7) (call $header
                        (i32.const 7) (i32.const 560) (i32.const 9) (i32.const 64) (i32.const 68))))
                (func $keep (param $key i32) (param $size i32) (param $status i32)
                    (if (local.get $status)
                        (then (i32.store (i32.const 64) (i32.const 80)) (i32.store (i32.const 68) (i32.const 4))
                            (i32.store (i32.const 80) (local.get $status))))
                    (drop (call $set (local.get $key) (local.get $size)
                        (i32.load (i32.const 64)) (i32.load (i32.const 68)) (i32.const 0)))))"#
        ))
        .unwrap()
    }
}
