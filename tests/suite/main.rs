//! Every promise of `docs/guarantees.md` that real processes, disks and servers can prove, and what the parts promise
//! each other. One program, so that the engine is built into it once.
//!
//! `cargo test --test suite kill_loop` runs the tests of one file.

// A test tells one story from its beginning to its end, and what it makes is its own.
#![allow(
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::large_stack_arrays,
    clippy::items_after_statements,
    clippy::unused_self
)]

mod common;

mod activity;
mod architecture;
mod attacks;
mod backup;
mod bad_input;
mod byte_sweep;
mod canary;
mod cli_contract;
mod convergence;
mod demo;
mod disasters;
mod docs;
mod doctor;
mod exchange;
mod fsyncs;
mod fuzz_corpus;
mod gathering;
mod healing;
mod http_faults;
mod invite;
mod keys;
mod kill_loop;
mod many_processes;
mod migrate;
mod mirror_trouble;
mod mistakes;
mod nextcloud;
mod plants;
mod power_cut;
mod privacy;
mod progress;
mod properties;
mod recover;
mod rekey;
mod remote_contract;
mod remote_faults;
mod remote_test;
mod repair;
mod replicator;
mod request_counts;
mod restore;
mod retirement;
mod salts;
mod scale;
mod service;
mod sessions;
mod short_status;
mod sync_engine;
mod syscalls;
mod unattended;
mod vectors;
mod walkthrough;
mod watch;
mod watch_world;
