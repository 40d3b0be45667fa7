//! Test of allocations: they grow with the number of streams and batches, not with the number of packets.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{pcap, udp};
use spiked::capture::CaptureFile;
use spiked::engine::{self, EngineSettings, Verdict};
use spiked::model::Model;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed unchanged to the system's allocator; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_times_the_packets_of_the_same_streams_allocate_almost_nothing_more() {
    let settings =
        EngineSettings { workers: 2, every_packet: true, ..EngineSettings::new(vec![Arc::new(Model::built_in().unwrap())]) };
    let allocations = |rounds: usize| {
        let frames: Vec<Vec<u8>> =
            (0..100 * rounds).map(|i| udp([10, 0, 0, (i % 100) as u8], 1000, [10, 0, 1, 1], 53, &[7; 30])).collect();
        let file = pcap(1, &frames);
        let mut source = CaptureFile::from_reader(std::io::Cursor::new(file), "memory".into()).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let counters = engine::run(&settings, &mut source, &mut |_: &Verdict| {}).unwrap();
        assert_eq!(counters.frames as usize, 100 * rounds);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    allocations(10);
    let (few, many) = (allocations(100), allocations(1000));
    println!("{few} allocations for 10,000 packets, {many} for 100,000");
    assert!(many < few + 90_000 / 20, "{few} allocations for 10,000 packets, {many} for 100,000");
}
