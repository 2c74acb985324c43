//! A request whose answer has failed and that is repeated in another cluster: the answer is held back until that one has answered.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_policy::document::Route;

use super::{Lasting, RequestState, Substitute};
use crate::base::time::Timestamp;
use crate::fallback::{
    self, Disposition, LocalReply, Placed, Replacement, ReplacementEffect, Sources, StandIn, Unserved,
};
use crate::host::{Headers, Host};
use crate::http::request::Field;
use crate::request::access_log;
use crate::request::calling::{Calling, DueCall, Phase, ToRepeat};
use crate::request::effect::RequestEffect;
use crate::request::plugin::RequestPlugin;
use crate::store::Store;

/// What follows where another cluster is to be asked.
enum Next {
    /// That it answers.
    Waits,
    /// This answers.
    Reply(LocalReply),
    /// Nothing.
    Nothing,
}

impl ToRepeat {
    /// The call has come to nothing: the next fallback that can serves.
    fn give_way(
        mut self,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        why: Unserved,
    ) -> Option<Substitute> {
        let now = host.now();
        let active = Rc::clone(&self.active);
        let mut events = active.metrics.events();
        let policy = active.state.try_borrow().ok()?;
        let mut failed = core::mem::take(&mut self.failed);
        let served = {
            let mut sources = Sources {
                value: &mut |wanted: Field<'_>| {
                    let index = active.kept.iter().position(|part| fallback::field(part) == Some(wanted))?;
                    self.kept.get(index)?.clone()
                },
                stale: &mut || policy.find_answer(store, self.key, self.stale.as_deref(), now),
                route: &mut |_: &Route| Err(self.unrouted),
                call: &mut |call| self.repeat.may(call, self.answer),
            };
            fallback::serve_after_call(active.policy(), &self.asked, why, &mut sources, &mut failed, &mut events)
        };
        self.failed = failed;
        let disposition = match &served {
            Some(StandIn::Reply(local)) => local.disposition,
            _ => Disposition::Admitted,
        };
        self.write_line(host, &policy.key_text(self.key), disposition);
        plugin.publish(&active, &policy, self.key, events);
        drop(policy);
        Some(match served? {
            StandIn::Reply(local) => Substitute::Reply(local),
            StandIn::Call(asked) => Substitute::Call(Box::new(ToRepeat { asked, ..self })),
        })
    }

    fn write_line(&self, host: &dyn Host, key: &str, disposition: Disposition) {
        let mut line = access_log::line(&self.active.policy().name, key, disposition);
        if matches!(disposition, Disposition::Call(_)) {
            access_log::push_cluster(&mut line, &self.asked.call.cluster);
        }
        access_log::push_failed(&mut line, &self.failed);
        line.push_str(&self.tail);
        access_log::write(host, &line);
    }

    /// What the other cluster has answered serves, if it is good.
    fn serve(
        &self,
        plugin: &RequestPlugin,
        host: &dyn Host,
        (serialized, body): (&[u8], Vec<u8>),
    ) -> Result<LocalReply, Unserved> {
        let active = &self.active;
        let mut events = active.metrics.events();
        let policy = active.state.try_borrow().map_err(|_| Unserved::NoAnswer)?;
        let reply = fallback::answer(serialized, body, &active.policy().outcome, host.recently())?;
        let local = fallback::call_reply(active.policy(), &self.asked, reply, &mut events);
        self.write_line(host, &policy.key_text(self.key), local.disposition);
        plugin.publish(active, &policy, self.key, events);
        Ok(local)
    }
}

impl Calling {
    /// Has another cluster asked, while the answer is in its headers' callback.
    pub(super) fn begin(
        what: Box<ToRepeat>,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        lasting: Lasting,
        (stream, ended, is_hosts): (u32, bool, bool),
    ) -> (RequestState, RequestEffect) {
        let (has_body, phase) = (Cell::new(false), RefCell::new(Phase::Over(None)));
        let active = Rc::clone(&what.active);
        let calling = Rc::new(Calling { stream, active, ended, is_hosts, has_body, phase });
        match calling.ask(what, plugin, store, host) {
            Next::Waits => (RequestState::Calling(calling, lasting), RequestEffect::Hold),
            Next::Reply(local) => {
                let (placed, now) = calling.place(host, local);
                RequestState::placed(plugin, Some(placed), lasting, stream, now)
            }
            Next::Nothing => (RequestState::ending(lasting), RequestEffect::Continue),
        }
    }

    /// Has another cluster asked, or the next, as far as the fallbacks go.
    fn ask(
        self: &Rc<Self>,
        mut what: Box<ToRepeat>,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
    ) -> Next {
        loop {
            let call = &what.asked.call;
            let due = what.active.begin_call(call).and_then(|permit| Ok((permit, what.repeat.again(call)?)));
            let why = match due {
                Ok((permit, request)) => {
                    plugin.call_soon(DueCall::new(self, permit, request), host.recently());
                    self.phase.replace(Phase::Waiting(what));
                    return Next::Waits;
                }
                Err(why) => why,
            };
            match what.give_way(plugin, store, host, why) {
                Some(Substitute::Call(next)) => what = next,
                Some(Substitute::Reply(local)) => return Next::Reply(local),
                None => return Next::Nothing,
            }
        }
    }

    /// The call was not made, or was answered with these headers, as the host serializes them, and this body; no headers: not at all, or with
    /// more than the host takes. What follows is the stream's, for which the host acts now.
    pub fn over(
        self: &Rc<Self>,
        plugin: &RequestPlugin,
        store: &mut dyn Store,
        host: &dyn Host,
        answer: Result<(&[u8], Vec<u8>), Unserved>,
    ) -> RequestEffect {
        let Phase::Waiting(what) = self.phase.replace(Phase::Over(None)) else { return RequestEffect::Hold };
        store.refresh();
        let served = answer.and_then(|answer| what.serve(plugin, host, answer));
        let next = match served {
            Ok(local) => Next::Reply(local),
            Err(why) => match what.give_way(plugin, store, host, why) {
                Some(Substitute::Reply(local)) => Next::Reply(local),
                Some(Substitute::Call(next)) => self.ask(next, plugin, store, host),
                None => Next::Nothing,
            },
        };
        let local = match next {
            Next::Waits => return RequestEffect::Hold,
            Next::Nothing => return RequestEffect::Resume,
            // What is held back of the body cannot be overwritten any more.
            Next::Reply(local) if self.has_body.get() => return RequestEffect::Reply(local),
            Next::Reply(local) => local,
        };
        let (placed, now) = self.place(host, local);
        let (replacement, effect) = plugin.replace(placed, self.stream, now);
        self.phase.replace(Phase::Over(replacement));
        if effect == RequestEffect::Continue { RequestEffect::Resume } else { effect }
    }

    fn place(&self, host: &dyn Host, local: LocalReply) -> (Placed, Timestamp) {
        let (now, serialized) = (host.now(), host.headers(Headers::Response));
        let rules = &self.active.policy().outcome;
        let answered =
            fallback::Answered { serialized: &serialized, rules, ended: self.ended, is_hosts: self.is_hosts };
        (fallback::place(host, answered, local, now), now)
    }

    /// A piece of the body of the answer that was held back has come, of `size` bytes, and with `ended` it is the last.
    pub(super) fn on_body(&self, host: &dyn Host, size: usize, ended: bool) -> RequestEffect {
        self.on_part(|replacement| replacement.on_body(host, size, ended))
    }

    /// Its trailers have come.
    pub(super) fn on_trailers(&self, host: &dyn Host) -> RequestEffect {
        self.on_part(|replacement| replacement.on_trailers(host))
    }

    /// A part of the answer has come, which goes on as what replaces it says.
    fn on_part(&self, replaced: impl FnOnce(&Replacement) -> ReplacementEffect) -> RequestEffect {
        match &*self.phase.borrow() {
            Phase::Waiting(_) => {
                self.has_body.set(true);
                RequestEffect::Hold
            }
            Phase::Over(Some(replacement)) => replaced(replacement).into(),
            Phase::Over(None) => RequestEffect::Continue,
        }
    }
}
