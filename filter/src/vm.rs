//! What all plugins of one VM share. Two listeners, or the old and the new configuration during an update, are two root contexts in one
//! VM.

use std::rc::Rc;

use holdfast_engine::attempt::AttemptVm;
use holdfast_engine::host::RootHost;
use holdfast_engine::request::RequestVm;

use crate::host::WasmHost;

thread_local! {
    static VM: Vm = Vm::new();
}

/// One VM's common state. It is in one seat, and the other's part stays empty.
#[derive(Clone)]
pub struct Vm {
    /// For the request seat.
    pub request: Rc<RequestVm>,
    /// For the attempt seat.
    pub attempt: Rc<AttemptVm>,
}

impl Vm {
    fn new() -> Self {
        let seed = WasmHost.now().0;
        Vm { request: Rc::new(RequestVm::new(seed)), attempt: Rc::new(AttemptVm::new(seed)) }
    }

    /// The VM that runs this.
    pub fn current() -> Self {
        VM.with(Vm::clone)
    }
}
