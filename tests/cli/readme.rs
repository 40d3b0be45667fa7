//! Test of the README and of docs/USAGE.md: every command runs, in order, in a folder with the files of a fresh clone, and the output that
//! the README shows is what the commands print.
//!
//! With the environment variable `SPIKED_UPDATE_README` set, the README's output is replaced by what the commands print.

use std::path::Path;
use std::process::Command;

const FENCE: &str = "```";

/// Runs the lines of one block of commands; returns what they printed and their number.
fn run(block: &str, folder: &Path) -> (String, usize) {
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let (mut printed, mut count) = (String::new(), 0);
    for line in block.lines() {
        // The set-up built this test, and `cargo test` runs it: both are left out.
        let command = line.split("pkg-config && ").last().unwrap();
        if command == "cargo test --locked" {
            continue;
        }
        let command = command.replace("cargo run --release --locked --", "spiked");
        let output = Command::new("bash").args(["-euc", &command]).current_dir(folder).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty() || command.contains('>'), "{command} printed nothing");
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
        count += 1;
    }
    (printed, count)
}

/// Runs every command of a document; returns the document with the output that the commands printed, and the number of commands.
fn follow(document: &str) -> (String, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["fixtures", "config"] {
        std::os::unix::fs::symlink(root.join(name), folder.path().join(name)).unwrap();
    }
    let (mut followed, mut count, mut printed) = (String::new(), 0, String::new());
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    // Text and fenced blocks alternate.
    for (number, part) in text.split(FENCE).enumerate() {
        if number > 0 {
            followed.push_str(FENCE);
        }
        if let Some(block) = part.strip_prefix("sh\n") {
            let commands;
            (printed, commands) = run(block, folder.path());
            count += commands;
            followed.push_str(part);
        } else if part.starts_with("text\n") {
            followed.push_str(&format!("text\n{}\n", printed.trim_end()));
        } else {
            followed.push_str(part);
        }
    }
    (followed, count)
}

#[test]
fn the_readme_s_commands_print_what_it_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let (followed, count) = follow("README.md");
    if std::env::var_os("SPIKED_UPDATE_README").is_some() {
        std::fs::write(&path, followed).unwrap();
        return;
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), followed);
    assert_eq!(count, 5, "the first of the two commands, and four more");
}

#[test]
fn the_readme_is_short() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 160, "{lines} lines; figures belong into benches/README.md, commands into docs/USAGE.md");
}

#[test]
fn the_usage_s_commands_run() {
    let (_, count) = follow("docs/USAGE.md");
    assert!(count >= 17, "only {count} commands were found");
}

#[test]
fn the_readme_s_picture_is_of_real_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !crate::common::installed("python3", "python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    std::os::unix::fs::symlink(root.join("fixtures"), folder.path().join("fixtures")).unwrap();
    let program = assert_cmd::cargo::cargo_bin("spiked");
    let script = root.join("docs/picture.py");
    let drawn = Command::new("python3").arg(script).arg(program).current_dir(folder.path()).output().unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    for theme in ["light", "dark"] {
        let name = format!("docs/learn-{theme}.svg");
        let [shown, drawn] = [root, folder.path()].map(|at| std::fs::read_to_string(at.join(&name)).unwrap());
        assert_eq!(shown, drawn, "python3 docs/picture.py SPIKED draws the picture again");
    }
}
