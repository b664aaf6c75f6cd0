//! What a MiB costs on its way through splice, mux and TLS, counted where nothing else runs: writes to the socket, TLS
//! records and allocations. Whoever makes one of these grow sees it here, without a clock.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod endpoint;
mod pair;
mod wire;

use allocation_counter::measure;
use tokio::runtime::{Builder, Runtime};

use crate::pair::Pair;
use crate::wire::Written;

const MIB: usize = 1024 * 1024;

/// What is measured over, so that the beginning and the end of a stream hardly count.
const MEASURED: usize = 64;

/// A full write: four records' worth of frames.
const WRITES_PER_MIB: f64 = 16.0;

/// A full record holds 16 KiB.
const RECORDS_PER_MIB: f64 = 64.0;

/// For each record: what rustls sends and receives, what the mux keeps until it is read, and the lists of these.
const ALLOCATIONS_PER_MIB: f64 = 4.75 * RECORDS_PER_MIB;

/// For each byte as many as there are copies of it, at both ends.
const ALLOCATED_PER_BYTE: f64 = 3.6;

/// One stream's way.
#[derive(Debug, Clone, Copy)]
enum Way {
    ToSession,
    ToClient,
}

/// What was written on the way of the bulk and against it, and what a MiB of it takes in memory at both ends.
#[derive(Debug)]
struct Cost {
    bulk: Written,
    credit: Written,
    allocations: f64,
    allocated: f64,
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build().expect("a runtime")
}

fn cost(way: Way) -> Cost {
    let runtime = runtime();
    let pair = runtime.block_on(Pair::new());
    runtime.block_on(pair.carry(way, MIB)); // what is made once is there now
    let before = pair.written(way);
    let memory = measure(|| runtime.block_on(pair.carry(way, MEASURED * MIB)));
    let after = pair.written(way);
    let measured = MEASURED as f64;
    Cost {
        bulk: after.0.since(before.0),
        credit: after.1.since(before.1),
        allocations: memory.count_total as f64 / measured,
        allocated: memory.bytes_total as f64 / measured,
    }
}

#[test]
fn bulk_leaves_in_full_writes_and_full_records() {
    for way in [Way::ToSession, Way::ToClient] {
        let cost = cost(way);
        let measured = MEASURED as f64;
        let writes = cost.bulk.writes as f64 / measured;
        let records = cost.bulk.records as f64 / measured;
        assert!(writes < WRITES_PER_MIB * 1.05, "{writes} writes, {way:?}");
        assert!(
            records < RECORDS_PER_MIB * 1.05,
            "{records} records, {way:?}"
        );
    }
}

#[test]
fn credit_costs_next_to_nothing() {
    for way in [Way::ToSession, Way::ToClient] {
        let credit = cost(way).credit;
        assert!(credit.writes > 0 && credit.records > 0, "they were counted");
        assert!(
            credit.writes.max(credit.records) < MEASURED,
            "{credit:?}, {way:?}"
        );
    }
}

#[test]
fn a_mebibyte_takes_few_allocations() {
    for way in [Way::ToSession, Way::ToClient] {
        let cost = cost(way);
        assert!(cost.allocations > 1.0, "they were counted");
        assert!(cost.allocations < ALLOCATIONS_PER_MIB, "{cost:?}, {way:?}");
        let allocated = cost.allocated / MIB as f64;
        assert!(allocated < ALLOCATED_PER_BYTE, "{allocated}, {way:?}");
    }
}
