//! Test of the README: every command runs, in order, in a folder with the files of a fresh clone.

use std::path::Path;
use std::process::Command;

#[test]
fn the_readme_s_commands_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["fixtures", "config"] {
        std::os::unix::fs::symlink(root.join(name), folder.path().join(name)).unwrap();
    }
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut run = 0;
    for block in readme.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            // The set-up built this test, and `cargo test` runs it: both are left out.
            let command = line.split("pkg-config && ").last().unwrap();
            if command == "cargo test --locked" {
                continue;
            }
            let command = command.replace("cargo run --release --locked --", "spiked");
            let output =
                Command::new("bash").args(["-euc", &command]).current_dir(folder.path()).env("PATH", &path).output().unwrap();
            assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
            assert!(!output.stdout.is_empty() || command.contains('>'), "{command} printed nothing");
            run += 1;
        }
    }
    assert!(run >= 14, "only {run} commands were found");
}
