//! Every seed of `tests/fuzz/corpus`, and changes of them, through the functions that the fuzz targets run: what fuzzing found
//! once is tested for ever, without a nightly compiler. `SSHFIX_INPUTS=n` tries n changes a target, `SSHFIX_SEED=n` others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use sshfix_tests::rulesets::Dice;
use sshfix_tests::targets::{TARGETS, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Name and bytes of every seed, in the order of their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// Runs a target; a panic is reported with the bytes that made it, to become a seed.
fn run((name, target): Target, from: &str, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("target {name}, from {from}: \"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

#[test]
fn every_target_has_seeds_and_a_fuzz_target() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(seeds(name).len() >= 3, "{name} has too few seeds");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
        let source = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("sshfix_tests::targets::{name}(bytes)")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    assert_eq!(std::fs::read_dir(fuzz().join("corpus")).unwrap().count(), TARGETS.len());
}

#[test]
fn every_seed_passes() {
    for target in TARGETS {
        for (name, bytes) in seeds(target.0) {
            run(target, &name, &bytes);
        }
    }
}

#[test]
fn every_cut_of_every_seed_passes() {
    for target in TARGETS {
        for (name, bytes) in seeds(target.0).iter().filter(|(_, bytes)| bytes.len() <= 400) {
            for end in 0..bytes.len() {
                run(target, name, &bytes[..end]);
            }
        }
    }
}

#[test]
fn changed_seeds_pass() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (inputs, seed) = (number("SSHFIX_INPUTS", 2000), number("SSHFIX_SEED", 0x9e37_79b9_7f4a_7c15));
    for target in TARGETS {
        let seeds = seeds(target.0);
        let mut dice = Dice::of(seed);
        for _ in 0..inputs {
            let (name, bytes) = &seeds[dice.roll(seeds.len())];
            let mut bytes = bytes.clone();
            for _ in 0..=dice.roll(4) {
                change(&mut dice, &mut bytes, &seeds);
            }
            run(target, name, &bytes);
        }
    }
}

/// One change: a bit, a byte, a number, a piece dropped, doubled or taken from another seed.
fn change(dice: &mut Dice, bytes: &mut Vec<u8>, seeds: &[(String, Vec<u8>)]) {
    let at = dice.roll(bytes.len() + 1);
    let end = (at + 1 + dice.roll(16)).min(bytes.len());
    match dice.roll(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
        1 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
        2 if at < end => {
            let interesting = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b':', b'-', b'9'][dice.roll(10)];
            bytes[at..end].fill(interesting);
        }
        3 if at < end => drop(bytes.drain(at..end)),
        4 if at < end => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        5 => bytes.insert(at, dice.roll(256) as u8),
        _ => {
            let other = &seeds[dice.roll(seeds.len())].1;
            let from = dice.roll(other.len() + 1);
            let piece = other[from..].iter().copied().take(dice.roll(32)).collect::<Vec<_>>();
            bytes.splice(at..at, piece);
        }
    }
}
