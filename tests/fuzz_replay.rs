//! Replay of the fuzz targets: seeds from the fixtures, mutated by a seeded generator, the same on every run.
//!
//! `SPIKED_FUZZ_SECONDS=600 cargo test --release --test fuzz_replay` runs each target for this time, from another seed each time.

mod common;
#[path = "common/label_seeds.rs"]
mod label_seeds;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::time::{Duration, Instant};

use common::{fixture, shared_data};
use label_seeds::label_seeds;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::SafeTensors;
use spiked::capture::{CaptureFile, FrameBatch, Source};
use spiked::model::Model;
use targets::TARGETS;

/// The fixtures' captures, smallest first.
fn fixture_captures() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(fixture("captures")).expect("the fixtures");
    let mut all: Vec<Vec<u8>> = entries.map(|e| std::fs::read(e.expect("an entry").path()).expect("a fixture")).collect();
    all.sort_by_key(|bytes| (bytes.len(), bytes.clone()));
    all
}

/// A few frames of each capture.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for bytes in fixture_captures() {
        let mut file = CaptureFile::from_reader(std::io::Cursor::new(bytes), "seed".into()).expect("a fixture");
        let mut batch = FrameBatch::new();
        let _ = file.fill(&mut batch).expect("a fixture");
        frames.extend(batch.iter().take(12).map(|f| f.bytes.to_vec()));
    }
    let inner = frames[0].clone();
    frames.push([&inner[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], &inner[12..]].concat());
    frames.push([&inner[..12], &[0x88, 0x47, 0, 1, 0x01, 64], &inner[14..]].concat());
    frames.push(common::udp([1, 1, 1, 1], 9, [2, 2, 2, 2], 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat()));
    frames
}

/// A model small enough to be mutated often.
fn small_model() -> Vec<u8> {
    let whole = Model::built_in().expect("a sound model");
    whole.without_classes(&whole.classes[2..]).expect("two are left").to_bytes()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let read =
        |path: &str| std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the project");
    let after = |head: &[u8], frames: Vec<Vec<u8>>| frames.into_iter().map(|f| [head, &f].concat()).collect::<Vec<_>>();
    match target {
        "captures" => fixture_captures()
            .into_iter()
            .map(|mut c| {
                c.truncate(20_000);
                c
            })
            .collect(),
        "decoder" => [after(&[1], frames()), after(&[6], frames().into_iter().map(|f| f[14..].to_vec()).collect())].concat(),
        "encoder" => after(&[1, 0, 3, 255], frames()),
        "labels" => [vec![read("fixtures/labels.csv")[..4000].to_vec()], label_seeds()].concat(),
        "settings" => vec![read("config/spiked.toml")],
        "models" => vec![small_model()],
        "http" => ["GET /", "GET /status", "GET /metrics", "POST /", "HEAD /page.js", "OPTIONS *", "GET //../etc/passwd"]
            .iter()
            .map(|line| {
                let head = format!("{line} HTTP/1.1\r\nHost: localhost:9184\r\nContent-Length: 4\r\nAccept: */*\r\n");
                [head.as_bytes(), b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"].concat()
            })
            .collect(),
        _ => {
            ["tcp port 22", "udp and not host 10.0.0.1", "ip6 or icmp", "net 10.0.0.0/8", "tcp[13] & 2 != 0", "ether[0] & 1 = 1"]
                .iter()
                .flat_map(|e| frames().into_iter().take(3).map(|f| [e.as_bytes(), &[0], &f].concat()))
                .collect()
        }
    }
}

/// Changes, cuts, repeats or splices some bytes; boundary values are more frequent than others.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut ChaCha8Rng) {
    const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x40, 0x0a, b'"'];
    let mut below = |n: usize| (random.next_u32() as usize) % n.max(1);
    for _ in 0..=below(6) {
        let (at, size) = (below(bytes.len()), 1 + below(8));
        match below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            1 | 2 if !bytes.is_empty() => bytes[at] = ODD[below(ODD.len())],
            3 => {
                let end = (at + 4).min(bytes.len());
                bytes[at.min(end)..end].fill(if below(2) == 0 { 0 } else { 0xff });
            }
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at.min(bytes.len())..(at + size).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => drop(bytes.drain(at..(at + size).min(bytes.len()))),
            7 => {
                let from = below(other.len());
                let piece = &other[from..(from + size * 8).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => bytes.insert(at, below(256) as u8),
        }
    }
}

/// Runs a target over its seeds, then over mutations of them; returns the number of inputs.
fn replay(name: &str, rounds: u64) -> u64 {
    let target = TARGETS.iter().find(|t| t.0 == name).expect("a target").1;
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| target(seed));
    let long: Option<u64> = std::env::var("SPIKED_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let until = Instant::now() + Duration::from_secs(long.unwrap_or(0));
    let start = long.map_or(1, |_| std::process::id().into());
    let mut random = ChaCha8Rng::seed_from_u64(start);
    let mut done = 0;
    while done < rounds || Instant::now() < until {
        let mut bytes = seeds[random.next_u32() as usize % seeds.len()].clone();
        let other = &seeds[random.next_u32() as usize % seeds.len()];
        mutate(&mut bytes, other, &mut random);
        if name == "models" {
            seal(&mut bytes);
        }
        let kept = std::panic::catch_unwind(|| target(&bytes));
        if kept.is_err() {
            let path = std::env::temp_dir().join(format!("spiked-{name}-{start}-{done}"));
            std::fs::write(&path, &bytes).expect("room for what was found");
            panic!("{name}: input {done} of seed {start} breaks a promise; it lies in {}", path.display());
        }
        done += 1;
    }
    println!("{name}: {} seeds, {done} mutations of them", seeds.len());
    done
}

/// Writes the correct checksum into a damaged model, so that the code after the check is reached.
fn seal(bytes: &mut [u8]) {
    let checksum = {
        let Ok((_, header)) = SafeTensors::read_metadata(bytes) else { return };
        let Ok(tensors) = SafeTensors::deserialize(bytes) else { return };
        let mut crc = crc32fast::Hasher::new();
        for name in ["start", "neuron", "weight", "gain"] {
            let Ok(tensor) = tensors.tensor(name) else { return };
            crc.update(tensor.data());
        }
        let Some(model) = header.metadata().as_ref().and_then(|m| m.get("model")) else { return };
        crc.update(model.as_bytes());
        format!("{:08x}", crc.finalize())
    };
    let key = b"\"checksum\":\"";
    if let Some(at) = bytes.windows(key.len()).position(|w| w == key)
        && let Some(place) = bytes.get_mut(at + key.len()..at + key.len() + 8)
    {
        place.copy_from_slice(checksum.as_bytes());
    }
}

#[test]
fn captures() {
    replay("captures", 5_000);
}

#[test]
fn decoder() {
    replay("decoder", 200_000);
}

#[test]
fn encoder() {
    replay("encoder", 10_000);
}

#[test]
fn labels() {
    replay("labels", 4_000);
}

#[test]
fn settings() {
    replay("settings", 1_000);
}

#[test]
fn models() {
    replay("models", 1_000);
}

#[test]
fn filters() {
    replay("filters", 1_000);
}

#[test]
fn http() {
    replay("http", 1_000);
}

#[test]
fn captures_that_broke_other_programs() {
    let Some(data) = shared_data() else { return };
    let (mut folders, mut files) = (vec![data.join("robust")], 0);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::metadata(&path).is_ok_and(|m| m.len() < 1 << 20) {
                let bytes = std::fs::read(&path).expect("a file");
                TARGETS.iter().filter(|t| !matches!(t.0, "settings" | "filters" | "http")).for_each(|(_, target)| target(&bytes));
                files += 1;
            }
        }
    }
    println!("{files} files through every target");
    assert!(files > 300);
}

#[test]
#[ignore = "writes fuzz/corpus, for fuzz/seed.sh"]
fn write_the_seeds() {
    for (name, _) in TARGETS {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (number, seed) in seeds(name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).expect("room for it");
        }
    }
}
