//! Test of the memory of a million live streams, measured on the program itself, fed through a pipe so that no mapped file is counted.

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};

/// Limit in mebibytes, including the built-in model.
const MOST: u64 = 200;
const STREAMS: u32 = 1_000_000;

/// Peak resident memory of the largest child that was waited for, in mebibytes.
fn peak_of_children() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole rusage, which the system fills; all zero is a valid one.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    usage.ru_maxrss as u64 / 1024
}

#[test]
fn a_million_live_streams_fit_into_200_mebibytes() {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("spiked"))
        .args(["read", "--events", "streams", "--format", "jsonl", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built with the tests");
    let mut input = BufWriter::with_capacity(1 << 20, child.stdin.take().expect("piped"));
    let writer = std::thread::spawn(move || {
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
            input.write_all(&word.to_le_bytes()).expect("the program reads on");
        }
        for n in 0..STREAMS {
            // Two packets in a second at the same tuple would be one stream: each has an address of its own.
            let [a, b, c, d] = n.to_be_bytes();
            let mut frame = [0u8; 58];
            frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
            frame[14..34].copy_from_slice(&[0x45, 0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 10 + a, b, c, d, 192, 0, 2, 1]);
            frame[34..42].copy_from_slice(&[0x9c, 0x40, 0x27, 0x0f, 0, 24, 0, 0]);
            frame[42..46].copy_from_slice(&n.to_be_bytes());
            for word in [1_700_000_000 + n / 10_000, n % 10_000 * 100, 58, 58] {
                input.write_all(&word.to_le_bytes()).expect("the program reads on");
            }
            input.write_all(&frame).expect("the program reads on");
        }
        input.flush().expect("the program reads on");
    });
    let mut output = child.stdout.take().expect("piped");
    let (mut lines, mut chunk) = (0, vec![0; 1 << 16]);
    while let Ok(bytes @ 1..) = std::io::Read::read(&mut output, &mut chunk) {
        lines += chunk[..bytes].iter().filter(|&&o| o == b'\n').count();
    }
    writer.join().expect("the writer has no reason to panic");
    assert!(child.wait().expect("the program ends").success());
    assert_eq!(lines, STREAMS as usize, "each stream lived until the end and was reported once");
    let peak = peak_of_children();
    println!("{peak} MiB at the peak with {STREAMS} live streams");
    assert!(peak <= MOST, "{peak} MiB for {STREAMS} streams; at most {MOST} are promised");
}
