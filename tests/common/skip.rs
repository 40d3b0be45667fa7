//! Skipping of tests on machines that lack what they need. Included by the library's unit tests too.

#![allow(dead_code, reason = "each crate that includes this file uses its part")]

use std::io::Write as _;

/// Set to 1 where a skipped test is a failure.
pub const REQUIRE_ALL: &str = "SPIKED_REQUIRE_ALL";

/// Path of nats-server for the tests of the fleet.
pub const NATS_SERVER: &str = "SPIKED_NATS_SERVER";

/// Path of SeaweedFS' `weed` for the tests of S3.
pub const S3_SERVER: &str = "SPIKED_S3_SERVER";

/// The variables of the tests, which they remove from the environment of the programs that they start: the program reads variables of this
/// prefix as settings and rejects unknown ones.
pub const VARIABLES: [&str; 3] = [REQUIRE_ALL, NATS_SERVER, S3_SERVER];

/// Reports that a test is skipped and what it lacks; the test returns after it.
///
/// # Panics
/// Where `SPIKED_REQUIRE_ALL=1` is set, as in `.ci/run`: there a test that checks nothing is a failure.
pub fn skip(lacking: &str) {
    // The test harness captures `eprintln!` of tests that pass, which would hide the skip.
    let _ = writeln!(std::io::stderr(), "skipped: {lacking}");
    let required = std::env::var_os(REQUIRE_ALL).is_some_and(|value| value == "1");
    assert!(!required, "{REQUIRE_ALL}=1 is set and the test lacks: {lacking}");
}

/// A kernel feature that containers may withhold and that no package can install: skipped even where all tests are required.
#[derive(Clone, Copy)]
pub enum KernelFeature {
    /// Container runtimes withhold `ptrace` of children by seccomp or Yama.
    Ptrace,
    /// Landlock is a choice at the kernel's build and boot.
    Landlock,
}

/// Reports that a test is skipped since the kernel lacks a feature, with what it answered.
pub fn skip_without(feature: KernelFeature, answer: &dyn std::fmt::Display) {
    let name = match feature {
        KernelFeature::Ptrace => "ptrace",
        KernelFeature::Landlock => "landlock",
    };
    let _ = writeln!(std::io::stderr(), "skipped: this kernel does not permit {name}: {answer}");
}
