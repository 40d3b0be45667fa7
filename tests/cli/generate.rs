//! Tests of the generated man pages and completions, which cover every command and option.

use crate::common::spiked;
use predicates::prelude::*;
use predicates::str::contains;

#[test]
fn every_command_has_a_man_page_with_its_options_and_the_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    spiked().arg("man").arg(folder.path().join("new/man1")).assert().code(0);
    let page = |name: &str| std::fs::read_to_string(folder.path().join("new/man1").join(name)).expect(name);
    let main = page("spiked.1");
    for code in ["ok", "cut short", "misconfigured", "no input", "unreadable", "no privilege"] {
        assert!(main.contains(code), "{code} is not in\n{main}");
    }
    assert!(page("spiked-read.1").contains("\\-\\-filter"));
    assert!(page("spiked-model-explain.1").contains("spiked\\-model\\-explain"));
    // Every command of the help has its page.
    let help = spiked().arg("--help").assert().code(0);
    let help = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert!(names.len() >= 8, "{names:?}");
    names.iter().filter(|&&n| n != "help").for_each(|name| drop(page(&format!("spiked-{name}.1"))));
}

#[test]
fn shells_complete_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        spiked().args(["completions", shell]).assert().code(0).stdout(contains("read").and(contains("filter")));
    }
    spiked().args(["completions", "dos"]).assert().code(2);
    let script = spiked().args(["completions", "bash"]).output().unwrap().stdout;
    let mut bash = assert_cmd::Command::new("bash");
    bash.arg("-n").write_stdin(script).assert().code(0);
}
