//! Aerostat.
fn main() {}
