//! Tests of the settings: all mistakes at once with their places, overrides, and `config/spiked.toml` against the code.

use std::path::Path;

use crate::common::spiked;
use spiked::config::{Basis, Config, ConfigError, Input, ModelSource, Override, keys, raw};

const SHIPPED: &str = include_str!("../../config/spiked.toml");

fn parse(text: &str, overrides: &[Override]) -> Result<Config, Vec<String>> {
    Config::from_text(Path::new("spiked.toml"), text, overrides).map_err(|error| match error {
        ConfigError::Mistakes { mistakes, .. } => mistakes.iter().map(ToString::to_string).collect(),
        other @ ConfigError::Read { .. } => vec![other.to_string()],
    })
}

fn set(argument: &str) -> Override {
    Override::from_argument(argument).expect("it has an =")
}

const ETH0: &str = "[[interfaces]]\nname = \"eth0\"\n";

#[test]
fn all_mistakes_are_reported_at_once_with_line_and_column() {
    let text = "sensr = \"a\"\n\
        [[interfaces]]\nname = \"eth0\"\nfilter = \"prot 22\"\nsnap_length = 9\n\
        [[interfaces]]\nname = \"eth0\"\nthreads = \"two\"\n\
        [engine]\nworkers = -1\nstreems = 5\n\
        [[sinks]]\ntype = \"file\"\n\
        [[sinks]]\ntype = \"kafka\"\npath = \"/x\"\n\
        [metrics]\naddress = \"localhost\"\n\
        [[policies]]\naction = \"alert\"\n";
    let mistakes = parse(text, &[]).expect_err("it is full of mistakes");
    let wanted = [
        ("spiked.toml:1:1: ", "unknown key `sensr`"),
        ("spiked.toml:4:10: ", "prot 22"),
        ("spiked.toml:5:15: ", "out of range (64 to 262144 bytes)"),
        ("spiked.toml:7:8: ", "given twice"),
        ("spiked.toml:8:11: ", "two"),
        ("spiked.toml:10:11: ", "workers = -1"),
        ("spiked.toml:11:1: ", "unknown key `streems`"),
        ("spiked.toml:13:8: ", "no path"),
        ("spiked.toml:15:8: ", "unknown value `kafka`"),
        ("spiked.toml:18:11: ", "127.0.0.1:9184"),
        ("spiked.toml:19:1: ", "the policy has no class"),
    ];
    for ((place, what), mistake) in wanted.iter().zip(&mistakes) {
        assert!(mistake.starts_with(place) && mistake.contains(what), "{mistake}\nis not {place}...{what}");
    }
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
}

#[test]
fn names_of_sinks_differ_from_each_other_and_from_that_of_evidence_captures() {
    let sink = "[[sinks]]\ntype = \"stdout\"\n";
    for (name, wanted) in [("stdout", "two sinks have the name 'stdout'"), ("evidence", "have the sink name 'evidence'")] {
        let mistakes = parse(&format!("{ETH0}{sink}{sink}name = \"{name}\"\n"), &[]).expect_err("the name is taken");
        assert!(mistakes.len() == 1 && mistakes[0].contains(wanted), "{mistakes:?}");
    }
}

/// The mistakes that `spiked check` reports, one a line.
fn check(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s.toml"), text).unwrap();
    let checked = spiked().current_dir(folder.path()).args(["check", "--config", "s.toml"]).assert().code(2);
    String::from_utf8_lossy(&checked.get_output().stderr).lines().skip(1).map(String::from).collect()
}

#[test]
fn mistakes_of_all_kinds_are_reported_in_one_run() {
    let mistakes = check(
        "models = [\"protocols\", \"none.safetensors\"]\n\
        [[interfaces]]\nname = eth0\nthreads = 99\n\
        [engine]\nworkers = = 1\nhosts = \"a\"\n\
        [[sinks]]\nname = \"untyped\"\n[[sinks]]\ntype = \"file\"\npath = \"/no/such/eve.json\"\n\
        [evidence]\nfolder = \"/no/such\"\n[process]\nuser = \"no-such-user\"\n",
    );
    let wanted = [
        ("s.toml:1:24: ", "none.safetensors: no such model file"),
        ("s.toml:3:8: ", "string values must be quoted"),
        ("s.toml:4:11: ", "threads = 99 is out of range"),
        ("s.toml:6:11: ", "extra `=`"),
        ("s.toml:6:13: ", ""),
        ("s.toml:7:9: ", "invalid type: string"),
        ("s.toml:8:1: ", "the sink has no type"),
        ("s.toml:12:8: ", "sinks.path: /no/such: No such file"),
        ("s.toml:14:10: ", "evidence.folder: /no/such: No such file"),
        ("s.toml:16:8: ", "process.user = 'no-such-user': no such user"),
    ];
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
    for ((place, what), mistake) in wanted.iter().zip(&mistakes) {
        assert!(mistake.starts_with(place) && mistake.contains(what), "{mistake}\nis not {place}...{what}");
    }
}

#[test]
fn wrong_types_are_told_in_the_words_of_the_settings() {
    let mistakes = parse(
        "models = 4\ninterfaces = 5\nsinks = [\"x\"]\nreplay = 3\n[policies]\n[engine]\nworkers = \"two\"\n\
        [learning]\nmin_accuracy = \"x\"\n[log]\nlevel = 3\n",
        &[],
    );
    let wanted = [
        "1:10: invalid type: integer `4`, expected a list",
        "2:14: invalid type: integer `5`, expected a list",
        "3:10: invalid type: string \"x\", expected a table",
        "4:10: invalid type: integer `3`, expected a table",
        "5:1: invalid type: table, expected a list",
        "7:11: invalid type: string \"two\", expected an integer",
        "9:16: invalid type: string \"x\", expected a number",
        "11:9: invalid type: expected a string",
    ];
    assert_eq!(mistakes.expect_err("all are wrong"), wanted.map(|mistake| format!("spiked.toml:{mistake}")));
}

#[test]
fn a_header_without_its_bracket_hides_no_mistake_in_other_tables() {
    let mistakes = check(
        "[[interfaces]\nname = \"eth0\"\nthreads = 99\n[engine]\nworkers = -1\n\
        [capture\nqueue = 3\n[[sinks]]\ntype = \"kafka\"\n[process]\nuser = \"no-such-user\"\n",
    );
    let wanted = [
        ("s.toml:1:14: ", "unclosed array table"),
        ("s.toml:5:11: ", "workers = -1"),
        ("s.toml:6:9: ", "unclosed table"),
        ("s.toml:9:8: ", "unknown value `kafka`"),
        ("s.toml:11:8: ", "no such user"),
    ];
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
    for ((place, what), mistake) in wanted.iter().zip(&mistakes) {
        assert!(mistake.starts_with(place) && mistake.contains(what), "{mistake}\nis not {place}...{what}");
    }
}

#[test]
fn check_counts_what_it_loaded_and_warns_of_a_status_file_without_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[interfaces]]\nname = \"lo\"\n[process]\nstatus_file = \"/no/such/status.json\"\n";
    std::fs::write(folder.path().join("s.toml"), text).unwrap();
    let checked = spiked().current_dir(folder.path()).args(["check", "--config", "s.toml"]).assert().success();
    let output = checked.get_output();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.starts_with("s.toml: ok (models: 1, classes: ") && out.ends_with(", policies: 0, sinks: 0)\n"), "{out}");
    assert!(errors.starts_with("spiked: s.toml:4:15: process.status_file: /no/such: No such file"), "{errors}");
}

#[test]
fn names_that_the_models_lack_have_their_lines() {
    let text = format!(
        "{ETH0}[[policies]]\naction = \"alert\"\n[[policies]]\nclass = \"sshh\"\n\
        [[policies]]\nclass = \"ssh\"\nmodel = \"other\"\n\
        [[teachers]]\nclass = \"a\"\nfilter = \"tcp\"\nmask = [\"ports\", \"prots\"]\n"
    );
    let mistakes = check(&text);
    let wanted = [
        "s.toml:3:1: the policy has no class",
        "s.toml:6:9: the policy names class 'sshh'",
        "s.toml:9:9: the policy for class 'ssh' names model 'other'",
        "s.toml:13:18: the teacher of 'a', mask",
    ];
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
    assert!(wanted.into_iter().zip(&mistakes).all(|(wanted, mistake)| mistake.starts_with(wanted)), "{mistakes:#?}");
    // A class that a teacher would learn cannot be distinguished from a wrong one.
    let mistakes = check(&format!("{ETH0}[[policies]]\nclass = \"backup\"\n[[teachers]]\nclass = backup\nfilter = \"tcp\"\n"));
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("s.toml:6:9: "), "{mistakes:#?}");
}

#[test]
fn an_override_of_a_key_below_a_string_is_a_mistake() {
    let mistakes = parse(ETH0, &[set("sensor.x=1")]).expect_err("sensor is a string");
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("--set sensor.x: "), "{mistakes:?}");
}

#[test]
fn old_keys_are_rejected_and_the_new_ones_named() {
    let text = "[replay]\nrounds = 0\n[watch]\nfolder = \"/in\"\nthen = \"move\"\nmove_to = \"/out\"\nset_aside = \"/bad\"\n\
        [[policies]]\nclass = \"ssh\"\nonly = \"tcp\"\nunless = \"port 22\"\n\
        [[teachers]]\nclass = \"a\"\nfilter = \"tcp\"\nwithout = []\n[learning]\ngate = 0.9\n";
    let wanted = [
        "spiked.toml:2:1: the key replay.rounds is now replay.repeat; rename it",
        "spiked.toml:5:1: the key watch.then is now watch.on_success; rename it",
        "spiked.toml:7:1: the key watch.set_aside is now watch.quarantine_folder; rename it",
        "spiked.toml:10:1: the key policies.only is now policies.include_filter; rename it",
        "spiked.toml:11:1: the key policies.unless is now policies.exclude_filter; rename it",
        "spiked.toml:15:1: the key teachers.without is now teachers.mask; rename it",
        "spiked.toml:17:1: the key learning.gate is now learning.min_accuracy; rename it",
    ];
    assert_eq!(parse(text, &[]).expect_err("old keys"), wanted);
    let mistakes = parse(ETH0, &[set("learning.gate=0.9")]).expect_err("an old key");
    assert_eq!(mistakes, ["--set learning.gate: the key learning.gate is now learning.min_accuracy; rename it"]);
    let variable = ("SPIKED_LEARNING_GATE".to_string(), "0.9".to_string());
    let error = Override::from_environment([variable].into_iter()).expect_err("an old key");
    assert!(error.to_string().contains("learning.gate is now learning.min_accuracy"), "{error}");
}

#[test]
fn a_policy_names_one_basis_or_several() {
    let bases = |policy: &str| {
        let config = parse(&format!("{ETH0}[[policies]]\nclass = \"ssh\"\n{policy}"), &[])?;
        let names = |bases: &Vec<Basis>| bases.iter().map(|basis| basis.name()).collect::<Vec<_>>();
        Ok(config.policies[0].basis.as_ref().map(names))
    };
    for (policy, wanted) in [
        ("action = \"alert\"\n", None),
        ("action = \"alert\"\nbasis = \"content\"\n", Some(vec!["content"])),
        ("basis = [\"ports\", \"content\", \"ports\"]\n", Some(vec!["content", "ports"])),
    ] {
        assert_eq!(bases(policy), Ok(wanted), "{policy}");
    }
    for (basis, wanted) in [
        (
            "\"payload\"",
            "spiked.toml:5:9: basis = 'payload' is not a valid basis; give one or several of content, headers, ports, episode",
        ),
        (
            "[\"content\", \"port\"]",
            "spiked.toml:5:21: basis = 'port' is not a valid basis; give one or several of content, headers, ports, episode",
        ),
        (
            "[]",
            "spiked.toml:5:9: basis = [] matches no stream; give some of content, headers, ports, episode, or leave the key out",
        ),
    ] {
        assert_eq!(bases(&format!("basis = {basis}\n")), Err(vec![wanted.to_string()]));
    }
    assert!(bases("basis = 1\n").expect_err("a number")[0].contains("a string or a list of strings"));
}

#[test]
fn two_models_of_one_name_are_rejected_as_events_could_not_distinguish_them() {
    for models in [r#"["a/site.safetensors", "b/site.safetensors"]"#, r#"["protocols", "/srv/protocols.safetensors"]"#] {
        let mistakes = parse(&format!("models = {models}\n{ETH0}"), &[]).expect_err("one name twice");
        assert!(mistakes[0].contains("two models would be called") && mistakes[0].contains("rename one"), "{mistakes:?}");
    }
}

#[test]
fn every_syntax_error_has_its_line() {
    let mistakes = parse("sensor = \n[engine\nworkers = = 1\n", &[]).expect_err("no TOML");
    assert!(mistakes.len() >= 2, "{mistakes:?}");
    assert!(mistakes[0].starts_with("spiked.toml:1:"), "{mistakes:?}");
}

#[test]
fn no_input_and_two_kinds_of_input_are_mistakes() {
    let mistakes = parse("", &[]).expect_err("no input");
    assert!(mistakes[0].contains("[[interfaces]]"), "{mistakes:?}");
    let mistakes = parse(&format!("{ETH0}[replay]\ncaptures = [\"a.pcap\"]\n"), &[]).expect_err("two inputs");
    assert!(mistakes[0].contains("both interfaces and replay"), "{mistakes:?}");
}

#[test]
fn overrides_win_and_their_mistakes_name_them() {
    let given = format!("{ETH0}[metrics]\naddress = \"127.0.0.1:1\"\n");
    let overrides =
        [set("metrics.address=[::1]:9999"), set("engine.workers=3"), set("sensor=12"), set("models=[\"a.safetensors\"]")];
    let config = parse(&given, &overrides).expect("all are fine");
    assert_eq!(config.metrics.map(|m| m.address.to_string()).as_deref(), Some("[::1]:9999"));
    assert_eq!((config.engine.workers, config.sensor.as_str()), (3, "12"));
    assert_eq!(config.models, [ModelSource::File("a.safetensors".into())]);

    let overrides = [set("engine.workers=many"), set("engine.wrkers=1"), set("metrics.address=nowhere"), set("sensor.x=1")];
    let mut mistakes = parse(&format!("sensor = \"a\"\n{given}"), &overrides).expect_err("all are wrong");
    mistakes.sort();
    let starts: Vec<&str> = mistakes.iter().filter_map(|m| m.split(": ").next()).collect();
    assert_eq!(
        starts,
        ["--set engine.workers", "--set engine.wrkers", "--set metrics.address", "--set sensor.x"],
        "{mistakes:#?}"
    );
}

#[test]
fn environment_variables_are_keys_in_capitals() {
    let variables = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    // Orchestrators set variables like SPIKED_PORT for a service of this name.
    let given = variables(&[
        ("SPIKED_METRICS_ADDRESS", "0.0.0.0:9184"),
        ("SPIKED_INTERFACES", "[{ name = \"eth1\" }]"),
        ("SPIKED_ALERTS_PER_MINUTE", "7"),
        ("SPIKED_SERVICE_HOST", "10.0.0.1"),
        ("SPIKED_PORT_9184_TCP", "tcp://10.0.0.1:9184"),
        ("PATH", "/bin"),
    ]);
    let overrides = Override::from_environment(given.into_iter()).expect("all name keys");
    let config = parse(ETH0, &overrides).expect("all are fine");
    assert_eq!(config.metrics.map(|m| m.address.to_string()).as_deref(), Some("0.0.0.0:9184"));
    assert_eq!(config.alerts.per_minute, 7);
    assert!(matches!(&config.input, Input::Interfaces(i) if i[0].name == "eth1"), "{:?}", config.input);
    let error = Override::from_environment(variables(&[("SPIKED_METRICS_ADRESS", "x")]).into_iter()).expect_err("no such key");
    assert!(error.to_string().contains("SPIKED_METRICS_ADRESS"), "{error}");
}

#[test]
fn the_fleet_is_validated_where_it_is_built_in() {
    let text = format!("{ETH0}[[sinks]]\ntype = \"nats\"\n[fleet]\nservers = [\"http://a\"]\nsensor = \"a.b\"\nkey = \"/k\"\n");
    let mistakes = parse(&text, &[]).expect_err("mistakes");
    let wanted: &[(&str, &str)] = if cfg!(feature = "fleet") {
        &[
            ("spiked.toml:4:8: ", "set fleet.spool"),
            ("spiked.toml:6:12: ", "'http://a' is not a valid server"),
            ("spiked.toml:7:10: ", "fleet.sensor = 'a.b' is not a valid name"),
            ("spiked.toml:8:7: ", "fleet.certificate and fleet.key belong together"),
        ]
    } else {
        &[("spiked.toml:4:8: ", "built without the fleet; the Debian package and the container image have it")]
    };
    assert_eq!(mistakes.len(), wanted.len(), "{mistakes:#?}");
    for ((place, what), mistake) in wanted.iter().zip(&mistakes) {
        assert!(mistake.starts_with(place) && mistake.contains(what), "{mistake}\nis not {place}...{what}");
    }
    let mistakes = parse(&format!("{ETH0}[fleet]\nsensor = \"edge\"\n"), &[]).expect_err("no servers");
    assert!(mistakes[0].contains("fleet.servers is not set"), "{mistakes:?}");
}

#[test]
fn tunnels_are_validated_and_their_mistakes_name_the_key() {
    let text =
        format!("{ETH0}[tunnels]\ndepth = 5\nexclude = [\"teredo\", \"gres\"]\nvxlan_ports = [0, 9000]\ngeneve_ports = [2152]\n");
    let mistakes = parse(&text, &[]).expect_err("mistakes");
    let wanted = [
        ("spiked.toml:4:9: ", "tunnels.depth = 5 is out of range (0 to 4 tunnels)"),
        ("spiked.toml:5:22: ", "tunnels.exclude = 'gres' is not a valid kind of tunnel; give some of gre, pptp, "),
        ("spiked.toml:6:16: ", "tunnels.vxlan_ports = 0 is out of range (1 to 65535)"),
        ("spiked.toml:8:14: ", "tunnels.gtp_ports: port 9000 is that of vxlan already"),
    ];
    let text = text.replace("geneve_ports = [2152]", "geneve_ports = [6082]\ngtp_ports = [9000]");
    let both = parse(&text, &[]).expect_err("mistakes");
    assert_eq!((mistakes.len(), both.len()), (4, 4), "{mistakes:#?}{both:#?}");
    for ((place, what), mistake) in wanted.iter().zip(&both) {
        assert!(mistake.starts_with(place) && mistake.contains(what), "{mistake}\nis not {place}...{what}");
    }
    let exchanged = format!("{ETH0}[tunnels]\nvxlan_ports = [6081]\ngeneve_ports = [4789]\n");
    parse(&exchanged, &[]).expect("kinds may exchange their ports");
    let depth = parse(ETH0, &[set("tunnels.depth=0")]).expect("it is in range").tunnels;
    assert_eq!(depth, spiked::packet::TunnelSettings::DEFAULT.with_depth(0));
}

/// A commented key, `#key = value`, and whether it is marked as an example.
fn commented(line: &str) -> Option<(&str, bool)> {
    let rest = line.strip_prefix('#')?;
    let begins_a_key = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    begins_a_key.then(|| (rest, rest.ends_with("# example")))
}

/// The sections of the shipped file: from one header, commented or not, to the next.
fn sections() -> Vec<Vec<&'static str>> {
    let mut sections = vec![Vec::new()];
    for line in SHIPPED.lines() {
        if line.trim_start_matches('#').starts_with('[') {
            sections.push(Vec::new());
        }
        sections.last_mut().expect("one at least").push(line);
    }
    sections
}

#[test]
fn the_shipped_file_is_valid_and_has_all_defaults() {
    let shipped = parse(SHIPPED, &[]).expect("it ships");
    let bare = parse("[[interfaces]]\nname = \"eth0\"\n[[sinks]]\ntype = \"file\"\npath = \"/var/log/spiked/eve.json\"\n", &[]);
    assert_eq!(shipped, bare.expect("only what has no default"));
}

#[test]
fn each_commented_default_is_the_true_default() {
    let mut checked = 0;
    // A program without the feature rejects all settings of the fleet.
    let known = |section: &Vec<&str>| cfg!(feature = "fleet") || !section.contains(&"[fleet]");
    for section in sections().into_iter().filter(known) {
        let uncommented: Vec<&str> = section.iter().map(|line| commented(line).map_or(*line, |(rest, _)| rest)).collect();
        let text = uncommented.join("\n");
        let alone = ["[replay]", "[watch]", "[[interfaces]]"].iter().any(|header| uncommented.contains(header));
        let around = if alone { "" } else { ETH0 };
        // watch.move_to needs another `on_success` than the default, so the test above compares `on_success` with the code.
        let text_of = |lines: &[&str]| format!("{}\n{around}", lines.join("\n").replace("\nmove_to", "\n#move_to"));
        let whole = match parse(&text_of(&uncommented), &[]) {
            Ok(config) => config,
            Err(mistakes) => panic!("{mistakes:#?}\nin\n{text}"),
        };
        for (at, line) in section.iter().enumerate() {
            let Some((rest, false)) = commented(line) else { continue };
            if rest.starts_with('[') {
                continue;
            }
            let mut without = uncommented.clone();
            without.remove(at);
            let without = parse(&text_of(&without), &[]).unwrap_or_else(|m| panic!("{rest} is needed: {m:?}"));
            assert_eq!(whole, without, "the default of '{rest}' is another");
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} defaults found");
}

#[test]
fn each_key_of_the_code_is_in_the_shipped_file() {
    // Uncommented, including sentences that begin with a key ("# severity = ").
    let named = |key: &str| SHIPPED.lines().any(|l| l.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = ")));
    let mut all = keys();
    assert!(all.contains(&"metrics.address".to_string()), "{all:?}");
    fn of(value: impl serde::Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).expect("string keys");
        value.as_object().expect("a table").keys().cloned().collect()
    }
    all.extend(of(raw::RawInterface::default()));
    all.extend(of(raw::RawSink::default()));
    all.extend(of(raw::RawPolicy::default()));
    all.extend(of(raw::RawTeacher::default()));
    for key in all {
        let last = key.rsplit('.').next().expect("not empty");
        if ["interfaces", "sinks", "policies", "teachers"].contains(&last) {
            assert!(SHIPPED.contains(&format!("[[{last}]]")), "[[{last}]] is not in config/spiked.toml");
        } else {
            assert!(named(last), "{key} is not in config/spiked.toml");
        }
    }
}
