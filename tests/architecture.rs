//! The rules of the tree, checked by reading it as text: who may know whom, what a manifest may list, how files look.
//!
//! Each rule is a function that returns its violations, with the place and the reason; it is tested beside itself on a text
//! that breaks it, and here on the real tree. When a rule hurts, change the rule, and its reason, in a commit of its own.

#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/lexer.rs"]
mod lexer;
#[path = "architecture/manifests.rs"]
mod manifests;
#[path = "architecture/shape.rs"]
mod shape;
#[path = "architecture/source.rs"]
mod source;

use std::{fs, path::Path};

use manifests::Manifest;
use source::{SourceFile, read_sources, visit_files};

#[test]
fn names_that_one_place_owns_are_named_nowhere_else() {
    assert_none(&imports::boundaries_hold(&sources()));
}

#[test]
fn use_cases_know_only_ports() {
    let root = members().into_iter().find(|member| member.folder == ".").unwrap();
    assert_none(&imports::use_cases_know_only_ports(&sources(), &root.crate_names()));
}

#[test]
fn ports_and_use_cases_do_no_io() {
    assert_none(&imports::the_inside_does_no_io(&sources()));
}

#[test]
fn modules_of_the_binary_point_inwards() {
    assert_none(&imports::modules_point_inwards(&sources()));
}

#[test]
fn dialects_do_not_know_each_other() {
    assert_none(&imports::dialects_do_not_know_each_other(&sources()));
}

#[test]
fn ports_depend_on_nothing_that_acts() {
    assert_none(&manifests::ports_stay_pure(&members()));
}

#[test]
fn adapters_depend_on_ports_and_their_own_technology() {
    assert_none(&manifests::adapters_keep_to_their_technology(&members()));
}

#[test]
fn adapters_are_known_to_wiring_and_to_the_benchmark() {
    assert_none(&manifests::adapters_are_known_to_few(&members()));
}

#[test]
fn members_take_lints_and_dependencies_from_the_workspace() {
    assert_none(&manifests::members_inherit_from_the_workspace(&members()));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    assert_none(&manifests::dependencies_have_a_purpose(&read("Cargo.toml")));
}

#[test]
fn the_lock_file_has_one_tls() {
    assert_none(&manifests::lock_has_one_tls(&read("Cargo.lock")).unwrap());
}

#[test]
fn files_are_small_and_named_for_one_idea() {
    let mut files = sources();
    files.extend(read_sources(workspace(), &["benches"]).unwrap());
    assert_none(
        &[shape::files_are_small(&files), shape::main_is_tiny(&files), shape::files_are_named_for_an_idea(&files)]
            .concat(),
    );
}

#[test]
fn no_file_names_a_registry_host() {
    let mut violations = Vec::new();
    visit_files(workspace(), workspace(), &mut |path, text| {
        violations.extend(shape::names_no_registry_host(path, text));
    })
    .unwrap();
    assert_none(&violations);
}

/// A rule that looks at no file holds always.
#[test]
fn the_rules_look_at_the_whole_tree() {
    let files = sources();
    for path in
        ["adapters/providers/src/lib.rs", "migration/src/lib.rs", "ports/src/lib.rs", "src/lib.rs", "src/main.rs"]
    {
        assert!(files.iter().any(|file| file.path == path), "{path} is not read");
    }
    for folder in [".", "adapters/sql", "migration", "ports", "ports/contract"] {
        assert!(members().iter().any(|member| member.folder == folder), "{folder}/Cargo.toml is not read");
    }
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[expect(clippy::expect_used, reason = "a tree that can't be read is a failed test")]
fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).expect(path)
}

#[expect(clippy::expect_used, reason = "a tree that can't be read is a failed test")]
fn sources() -> Vec<SourceFile> {
    read_sources(workspace(), &["adapters", "migration", "ports", "src"]).expect("the sources")
}

#[expect(clippy::expect_used, reason = "a manifest that can't be read is a failed test")]
fn members() -> Vec<Manifest> {
    let root = Manifest::parse(".", &read("Cargo.toml")).expect("Cargo.toml");
    let folders: Vec<String> = root.members().into_iter().map(str::to_owned).collect();
    folders
        .iter()
        .map(|folder| Manifest::parse(folder, &read(&format!("{folder}/Cargo.toml"))).expect(folder))
        .collect()
}
