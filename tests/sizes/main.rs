//! What people ask of the API and the metrics where there is very much of everything. In CI the
//! broker is the one that is shipped; one that is compiled for tests has less to do.

mod few_of_many;
mod lists;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::env;

/// How many there are of what `many` are asked for.
fn scaled(many: usize) -> usize {
    const SLOWER: usize = 10;
    let is_shipped = env::var_os("LEVERET_BINARY").is_some();
    many / if is_shipped { 1 } else { SLOWER }
}
