//! Ticks of all VMs: each has its own timer, as Envoy sets it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_host_tests::{Host, Seat, Thread};

use crate::small_module::ticking;
use crate::support::{HOUR, seconds};

type Ticks = Rc<RefCell<BTreeMap<(Seat, String), Vec<u64>>>>;

/// A host with such a module, and the milliseconds at which each VM ticks: it sets its period anew each time.
fn watched(periods: &[u32], in_both: bool, workers: usize) -> (Host, Ticks) {
    let module = ticking(periods, in_both);
    let host = Host::with("{}").module(&module).workers(workers).attempt_seat().start();
    let (ticks, began) = (Ticks::default(), host.elapsed());
    let seen = Rc::clone(&ticks);
    host.on_call(move |host, call| {
        let at = (host.elapsed() - began).as_millis() as u64;
        seen.borrow_mut().entry((call.seat, call.thread.to_string())).or_default().push(at);
        None
    });
    (host, ticks)
}

#[test]
fn a_new_period_counts_from_when_it_is_set() {
    let (host, ticks) = watched(&[1000, 250, 250, 2000, 0], true, 1);
    host.advance(seconds(60));
    let rounded = |times: &[u64]| times.iter().map(|at| (at + 10) / 50 * 50).collect::<Vec<_>>();
    let ticks = ticks.borrow();
    assert_eq!(ticks.len(), 4, "main thread and worker, both seats");
    for (vm, times) in ticks.iter() {
        assert_eq!(rounded(times), [1000, 1250, 1500, 3500], "{vm:?}; and 0 is no tick at all");
    }
}

#[test]
fn a_vm_that_died_ticks_no_more_until_there_is_another() {
    let (host, ticks) = watched(&[1000], false, 2);
    host.crash(0);
    host.advance(seconds(10));
    let count = |thread: Thread| ticks.borrow().get(&(Seat::Request, thread.to_string())).map_or(0, Vec::len);
    assert_eq!((count(Thread::Worker(0)), count(Thread::Worker(1))), (0, 10));
    host.reload(0);
    host.advance(seconds(10));
    assert_eq!((count(Thread::Worker(0)), count(Thread::Worker(1)) / 10), (11, 2), "configured anew, it ticks again");
}

#[test]
fn hours_of_ticks_of_sixteen_workers_pass() {
    let module = ticking(&[1000], true);
    let host = Host::with("{}").module(&module).workers(16).attempt_seat().start();
    host.advance(4 * HOUR);
    let expected = 4 * HOUR.as_secs();
    for worker in 0..16 {
        for seat in [Seat::Request, Seat::Attempt] {
            let ticks = host.calls(seat.on(worker)) - 1;
            assert!(ticks.abs_diff(expected) <= 1, "{ticks} ticks of the {seat:?} seat's VM on worker {worker}");
        }
    }
    assert!(host.elapsed() >= Duration::from_secs(expected));
}
