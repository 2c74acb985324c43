//! Compiles a policy document natively.
fn main() {}
