//! Tests of `spiked paper`: the one-shot rule reproduces the decisions of the founding paper's machine, word by word.

use crate::common::{shared_data, spiked};
use predicates::prelude::*;
use predicates::str::contains;

#[test]
fn its_table_is_reproduced() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("paper.svg");
    let output = spiked().arg("paper").arg("--plot").arg(&plot).assert().code(0);
    let table = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for distance in 0..10u32 {
        let line = table.lines().find(|l| l.split_whitespace().next() == Some(&distance.to_string())).expect("a line a distance");
        assert_eq!(
            line.split_whitespace().nth(2),
            Some((1 << distance).to_string().as_str()),
            "two patterns make 2^H words fire"
        );
    }
    assert!(std::fs::read_to_string(plot).unwrap().contains("<polyline"));
}

#[test]
fn every_decision_of_the_machine_is_reproduced() {
    let Some(data) = shared_data() else { return };
    let output = spiked().args(["paper", "--compare"]).arg(data.join("davies/spinnaker_decisions.csv")).assert().code(0);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let figure = |what: &str| {
        let line = text.lines().find(|l| l.trim_start().starts_with(what)).unwrap_or_else(|| panic!("no line '{what}'"));
        line.split_whitespace().last().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(figure("words compared"), 47.0 * 1024.0);
    assert_eq!(figure("decided differently, ties excluded"), 0.0);
    let (_, exact) = text.split_once("in the machine's fixed point").unwrap();
    for line in ["words compared 50176", "decided differently 0", "to five decimals 49 of 49"] {
        assert!(exact.split_whitespace().collect::<Vec<_>>().join(" ").contains(line), "no '{line}' in {exact}");
    }
}

#[test]
fn a_difference_other_than_a_tie_is_reported_and_damaged_files_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.csv");
    let row = |hex: String| format!("trained_patterns,homeostatic_factor,fired_words_hex\n992,4.18817,{hex}\n");
    std::fs::write(&path, row("0".repeat(255) + "1")).unwrap();
    // The trained word itself is an exact tie; the other one is not.
    let output = contains("word 1023: fired there, silent here").and(contains("word 992").not());
    spiked().args(["paper", "--compare"]).arg(&path).assert().code(1).stdout(output);
    std::fs::write(&path, row("0".repeat(20))).unwrap();
    spiked()
        .args(["paper", "--compare"])
        .arg(&path)
        .assert()
        .code(2)
        .stderr(contains("line 2").and(contains("256 hexadecimal digits")));
    std::fs::write(&path, row("0,0".into())).unwrap();
    spiked().args(["paper", "--compare"]).arg(&path).assert().code(2).stderr(contains("d.csv: can't read the decisions"));
}
