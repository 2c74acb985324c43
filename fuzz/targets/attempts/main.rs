//! The lives of requests and attempts as they ship, over a host and a store in memory: three workers with a VM of each seat, and a
//! router that begins attempts as Envoy's does. Any headers, statuses and ends, any order of events that Envoy can give, clocks that
//! jump, and anything at all written over records and over what the seats tell each other.

#![no_main]

mod checks;
mod policies;
mod request;
mod steps;
mod streams;
mod world;

use libfuzzer_sys::fuzz_target;

use policies::SHAPES;
use steps::Input;
use world::World;

fuzz_target!(|input: Input<'_>| {
    let shape = &SHAPES[usize::from(input.policy) % SHAPES.len()];
    let mut world = World::new(shape, input.signalled, input.sees_held_bodies, input.seed);
    for step in &input.steps {
        world.step(step);
    }
    world.end();
});
