//! The committed specification is the one that the code generates. `UPDATE_SPEC=1` writes it anew.

use std::fs;

use serde_json::Value;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");

#[test]
fn the_committed_specification_is_current() {
    let generated = ai4free::http::specification();
    if std::env::var_os("UPDATE_SPEC").is_some() {
        fs::write(COMMITTED, &generated).unwrap();
    }
    let committed = fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == generated, "openapi/openapi.json is stale: run UPDATE_SPEC=1 cargo test --test openapi");
}

/// Clients and their generators need all of these of every operation.
#[test]
fn every_operation_has_an_id_a_tag_a_summary_statuses_and_security() {
    let specification: Value = serde_json::from_str(&ai4free::http::specification()).unwrap();
    let mut ids = Vec::new();
    for (path, methods) in specification["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{method} {path}");
            ids.push(operation["operationId"].as_str().unwrap_or_else(|| panic!("{name}: no id")).to_owned());
            assert!(!operation["tags"].as_array().expect(&name).is_empty(), "{name}: no tag");
            assert!(!operation["summary"].as_str().expect(&name).is_empty(), "{name}: no summary");
            let probe = path.ends_with('z') || path == "/health";
            let statuses: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
            let expected: &[&str] = if probe { &["200"] } else { &["400", "401", "404", "429", "500", "503"] };
            assert!(expected.iter().all(|status| statuses.iter().any(|have| have == status)), "{name}: {statuses:?}");
            assert!(probe || !operation["security"].as_array().expect(&name).is_empty(), "{name}: no security");
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are unique");
}
