//! What README.md says is so, where that can be checked without running anything.
//! `UPDATE_README=1 cargo test --test readme` writes its configuration reference anew.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BEGIN: &str = "<!-- settings: written by UPDATE_README=1 cargo test --test readme -->\n";
const END: &str = "<!-- end of settings -->\n";

#[expect(clippy::expect_used, reason = "a file that can't be read is a failed test")]
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect(path)
}

/// Before the reference, the reference, after it.
#[expect(clippy::expect_used, reason = "a README without markers is a failed test")]
fn parts(readme: &str) -> (&str, &str, &str) {
    let (before, rest) = readme.split_once(BEGIN).expect("the marker before the settings");
    let (reference, after) = rest.split_once(END).expect("the marker after the settings");
    (before, reference, after)
}

/// Words of these characters, each once.
fn words(text: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<&str> {
    text.split(|c| !is_part(c)).filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_configuration_reference_is_current() {
    let generated = format!("\n{}\n", ai4free::config::reference());
    let readme = read("README.md");
    let (before, reference, after) = parts(&readme);
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(Path::new(ROOT).join("README.md"), format!("{before}{BEGIN}{generated}{END}{after}")).unwrap();
        return;
    }
    assert!(reference == generated, "README.md is stale: run UPDATE_README=1 cargo test --test readme");
}

#[test]
fn every_variable_that_is_named_exists() {
    // `AI4FREE__SECTION__KEY` and `NAME_FILE` stand for many; the others are no setting of the gateway.
    const NONE_OF_OURS: [&str; 4] = ["AI4FREE__SECTION__KEY", "NAME_FILE", "TEAM_A_KEY", "UPDATE_README"];
    let (readme, example, reference) = (read("README.md"), read(".env.example"), ai4free::config::reference());
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let known = words(&example, is_part);
    let (before, _, after) = parts(&readme);
    let is_variable = |word: &str| {
        let inner = word.trim_matches('_');
        inner == word
            && word.contains('_')
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<&str> =
        [before, after].into_iter().flat_map(|text| words(text, is_part)).filter(|word| is_variable(word)).collect();
    assert!(named.len() > 40, "{named:?}");
    for variable in named.into_iter().filter(|variable| !NONE_OF_OURS.contains(variable)) {
        let is_known = match variable.strip_prefix("AI4FREE__") {
            Some(path) => reference.contains(&format!("| `{}` |", path.to_lowercase().replace("__", "."))),
            None => known.contains(variable),
        };
        assert!(is_known, "README.md names the variable {variable}, which does not exist");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let readme = read("README.md");
    let headings: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(',', "").replace(' ', "-"))
        .collect();
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect();
    assert!(links.len() > 15, "{links:?}");
    for link in links {
        match link.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "no heading #{heading}"),
            None => assert!(Path::new(ROOT).join(link).exists(), "no file {link}"),
        }
    }
}

#[test]
fn every_route_is_named() {
    let readme = read("README.md");
    let specification: Value = serde_json::from_str(&ai4free::http::specification()).unwrap();
    for path in specification["paths"].as_object().unwrap().keys() {
        let ends = ["`", ",", "?"].map(|end| format!("{path}{end}"));
        assert!(ends.iter().any(|ended| readme.contains(ended)), "README.md does not name {path}");
    }
}

#[test]
fn metrics_are_those_of_the_code() {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_' || c == '4';
    let is_metric = |word: &&str| word.starts_with("ai4free_");
    let readme = read("README.md");
    let code: String =
        ["src/telemetry/metrics.rs", "src/telemetry/start.rs", "src/wiring/readiness.rs"].map(read).concat();
    let registered: BTreeSet<&str> =
        code.split('"').filter(|literal| literal.chars().all(is_part)).filter(is_metric).collect();
    let named: BTreeSet<&str> = words(&readme, is_part).into_iter().filter(is_metric).collect();
    assert_eq!(named, registered);
}

#[test]
fn the_grants_are_those_that_the_store_is_tested_with() {
    let (readme, harness) = (read("README.md"), read("adapters/sql/src/tests/harness.rs"));
    let grants = |text: &str, role: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("GRANT "));
        lines.map(|line| line.replace(role, "TO somebody")).collect()
    };
    let tested = grants(&harness, "TO {role}");
    assert!(tested.len() > 3, "{tested:?}");
    assert_eq!(grants(&readme, "TO ai4free"), tested);
}

#[test]
fn the_old_systems_models_are_all_there() {
    let models: Value = serde_json::from_str(&read("data/models.json")).unwrap();
    let ids = models["models"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str());
    let count = ids.filter(|id| id.starts_with("Provider-")).count();
    assert!(read("README.md").contains(&format!("9 providers, {count} models")), "{count}");
}
