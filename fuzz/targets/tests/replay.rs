//! Every input that is kept, on stable and without a fuzzer; and some thousands that are made of them, always the same.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use prom_fuzz_targets::{TARGETS, Target};

/// Inputs that are made for each target.
const MADE: usize = 300;
/// The longest of them, in bytes.
const LONGEST: usize = 2_000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder above").to_owned()
}

/// The files of a folder, by name; none where there is no such folder.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            (path.display().to_string(), fs::read(&path).expect("a readable file"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Adds to what failed, and goes on: one target's finding hides no other's.
fn run((name, target): Target, what: &str, input: &[u8], failed: &mut Vec<String>) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let shown = String::from_utf8_lossy(&input[..input.len().min(200)]);
        failed.push(format!("{name} fails for {what}, which begins {shown:?}; the input: {}", hex(input)));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_input_that_is_kept_passes() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let corpus = inputs(&fuzz().join("corpus").join(target.0));
        assert!(!corpus.is_empty(), "{} has no corpus", target.0);
        let regressions = inputs(&fuzz().join("regressions").join(target.0));
        for (path, input) in corpus.iter().chain(&regressions) {
            run(target, path, input, &mut failed);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_is_made_of_them_passes_too() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let corpus = inputs(&fuzz().join("corpus").join(target.0));
        let mut random = fastrand::Rng::with_seed(7);
        for n in 0..MADE {
            let input = made(&corpus, &mut random);
            run(target, &format!("made input {n}"), &input, &mut failed);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// An input of the corpus, or two halves of two, with some bytes of it changed.
fn made(corpus: &[(String, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    let pick = |random: &mut fastrand::Rng| corpus[random.usize(0..corpus.len())].1.clone();
    let mut bytes = pick(random);
    if random.bool() {
        let other = pick(random);
        bytes.truncate(random.usize(0..=bytes.len()));
        bytes.extend_from_slice(&other[random.usize(0..=other.len())..]);
    }
    for _ in 0..random.usize(0..4) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => {
                let again = bytes[at..bytes.len().min(at + random.usize(0..16))].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.insert(at, *random.choice(b"\0\"\\{}[],:.*$%0919eE-+ \n\xff".iter()).expect("some")),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

#[test]
fn every_target_has_a_program_and_no_program_is_left_without_one() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let folder = |name: &str| fs::read_dir(fuzz().join(name)).expect("a folder");
    for entry in folder("fuzz_targets") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let text = fs::read_to_string(&path).expect("a readable file");
        assert!(names.contains(name) && text.contains(&format!("prom_fuzz_targets::{name}(data)")), "{name}");
    }
    assert_eq!(folder("fuzz_targets").count(), names.len(), "{names:?}");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is in no manifest");
    }
    for kept in ["corpus", "regressions"] {
        for entry in folder(kept) {
            let name = entry.expect("a readable folder").file_name().into_string().expect("a name");
            assert!(TARGETS.iter().any(|(own, _)| *own == name), "{kept}/{name} is of no target");
        }
    }
}
