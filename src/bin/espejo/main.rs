//! The `espejo` command.

fn main() {}
