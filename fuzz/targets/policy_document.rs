//! Any bytes as a policy document, a JSON text or a `google.protobuf.Struct`: an error says where and what, and a document that compiles means one thing.

#![no_main]

use holdfast_engine::cx::Cx;
use std::sync::Arc;

use holdfast_engine::base::fingerprint;
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::request::{Decision, RequestPolicy};
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config::{self, MAX_LISTED};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match config::parse(bytes) {
        Err(errors) => {
            assert!((1..=MAX_LISTED).contains(&errors.listed().len()), "{errors}");
            assert_eq!(errors.total(), errors.listed().len() + errors.unlisted());
            for error in errors.listed() {
                assert!(!error.path.is_empty() && !error.problem.is_empty(), "{error:?}");
                assert!(!error.to_string().contains('\n'), "an error is one line: {error:?}");
            }
            assert_eq!(config::parse(bytes), Err(errors), "the same bytes are wrong in the same way");
        }
        Ok(document) => {
            assert_eq!(config::parse(bytes).as_ref(), Ok(&document), "the same bytes mean the same");
            // A Struct has keys and lengths that no text has.
            if !bytes.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
                assert_eq!(config::parse(&spaced(bytes)), Ok(document.clone()), "white space means nothing");
            }
            let texts = config::policy_texts(bytes);
            assert_eq!(texts.len(), document.policies.len(), "a text for each policy");
            for (policy, text) in document.policies.into_iter().zip(texts) {
                // What the attempt seat is given to read.
                let alone = config::parse_struct_json(text.as_bytes()).map(|document| document.policies);
                assert_eq!(alone.as_deref(), Ok([policy.clone()].as_slice()), "a policy's own text means that policy");
                assert_eq!(fingerprint::of_policy(&policy), fingerprint::of_policy(&policy.clone()));
                govern(policy.into());
            }
        }
    }
});

/// The document with white space wherever JSON allows some.
fn spaced(bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let (mut quoted, mut escaped) = (false, false);
    for &byte in bytes {
        let structural = !quoted && b"{}[]:,".contains(&byte);
        if structural {
            out.push(b' ');
        }
        out.push(byte);
        if structural {
            out.extend_from_slice(b"\n\t");
        }
        if escaped {
            escaped = false;
        } else if quoted && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        }
    }
    out
}

/// What compiles can also govern: a few failures and a few hours of it.
fn govern(policy: Arc<holdfast_policy::document::Policy>) {
    let failure = Outcome { verdict: Verdict::Failure, slow: true, retry_after: None };
    let (mut worker, mut store, mut events) = (Worker::new(1), MemoryStore::default(), Vec::new());
    let mut now = Timestamp::from_secs(1_700_000_000);
    let mut governed = RequestPolicy::entered(Arc::clone(&policy), &mut store, now);
    for round in 0..24 {
        let key = governed.key(&mut worker, &mut store, now, |_| Some(b"x"[..].into()));
        if let Decision::Admitted(ticket) = governed.admit(&mut Cx::new(&mut store, &mut worker, now, &mut events), key)
        {
            let hold = governed.report(&mut Cx::new(&mut store, &mut worker, now, &mut events), ticket, &failure);
            if let Some(hold) = hold {
                governed.release(&mut Cx::new(&mut store, &mut worker, now, &mut Vec::new()), hold);
            }
        }
        now = now.plus(core::time::Duration::from_millis(1 << round));
        governed.tick(&mut Cx::new(&mut store, &mut worker, now, &mut Vec::new()));
        for event in events.drain(..) {
            if let Some((_, line)) = event.line(&policy.name, &governed.key_text(key)) {
                assert!(!line.contains('\n'));
            }
        }
    }
}
