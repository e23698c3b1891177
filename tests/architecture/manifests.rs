//! What the manifests and the lock file may say.

use std::collections::BTreeSet;

use toml::{Table, Value};

/// The edge of the hexagon: types and traits, no I/O, no framework, no runtime.
const PORTS_MAY_USE: [&str; 9] =
    ["async-trait", "bytes", "futures-core", "serde", "serde_json", "thiserror", "time", "uuid", "zeroize"];

/// What every adapter may use beside what its technology needs.
const ADAPTERS_MAY_USE: [&str; 15] = [
    "ai4free-ports",
    "arc-swap",
    "async-trait",
    "bytes",
    "futures-core",
    "futures-util",
    "serde",
    "serde_json",
    "thiserror",
    "time",
    "tokio",
    "tokio-util",
    "tracing",
    "uuid",
    "zeroize",
];

/// The technology of each adapter. A new line here is a decision: what does the adapter become responsible for?
const TECHNOLOGIES: [(&str, &[&str]); 5] = [
    ("adapters/local", &["crc32c", "getrandom", "hkdf", "hmac", "jiff", "moka", "sha2", "subtle"]),
    (
        "adapters/providers",
        &[
            "base64",
            "http",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-rustls",
            "hyper-util",
            "memchr",
            "percent-encoding",
            "reqwest",
            "reqwest-eventsource",
            "rustls",
            "rustls-native-certs",
            "tower-service",
            "url",
            "webpki-roots",
        ],
    ),
    ("adapters/redis", &["fred", "sha2"]),
    ("adapters/sql", &["ai4free-migration", "sea-orm", "sea-orm-migration"]),
    ("adapters/tokens", &["tiktoken-rs"]),
];

/// One member of the workspace.
pub(crate) struct Manifest {
    /// Its folder, relative to the workspace; `.` for the root package.
    pub(crate) folder: String,
    table: Table,
}

impl Manifest {
    pub(crate) fn parse(folder: &str, text: &str) -> Result<Self, toml::de::Error> {
        Ok(Self { folder: folder.to_owned(), table: text.parse()? })
    }

    /// The folders that the workspace lists.
    pub(crate) fn members(&self) -> Vec<&str> {
        let members = self.table.get("workspace").and_then(|workspace| workspace.get("members")?.as_array());
        members.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The crates of `[dependencies]`, as code names them.
    pub(crate) fn crate_names(&self) -> BTreeSet<String> {
        self.dependencies("dependencies").map(|(name, _)| name.replace('-', "_")).collect()
    }

    fn dependencies(&self, section: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.table
            .get(section)
            .and_then(Value::as_table)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value))
    }
}

/// `ports/Cargo.toml` lists only what types and traits need.
pub(crate) fn ports_stay_pure(members: &[Manifest]) -> Vec<String> {
    let ports = members.iter().filter(|member| member.folder == "ports");
    let named = ports.flat_map(|member| {
        ["dependencies", "build-dependencies"].into_iter().flat_map(|section| member.dependencies(section))
    });
    named
        .filter(|(name, _)| !PORTS_MAY_USE.contains(name))
        .map(|(name, _)| {
            format!(
                "ports/Cargo.toml: depends on {name}: the edge of the hexagon has no I/O, no framework and no runtime"
            )
        })
        .collect()
}

/// An adapter knows the ports and its own technology, and never another adapter.
pub(crate) fn adapters_keep_to_their_technology(members: &[Manifest]) -> Vec<String> {
    let mut violations = Vec::new();
    for member in members.iter().filter(|member| member.folder.starts_with("adapters/")) {
        let Some((_, technology)) = TECHNOLOGIES.iter().find(|(folder, _)| *folder == member.folder) else {
            violations.push(format!(
                "{}/Cargo.toml: has no line in TECHNOLOGIES: say what the new adapter may use",
                member.folder
            ));
            continue;
        };
        for (name, _) in member.dependencies("dependencies") {
            if !ADAPTERS_MAY_USE.contains(&name) && !technology.contains(&name) {
                violations.push(format!(
                    "{}/Cargo.toml: depends on {name}: an adapter knows the ports and its own technology, never another adapter or its technology",
                    member.folder
                ));
            }
        }
    }
    violations
}

/// Whoever knows an adapter can go round the ports: the composition root does, and the benchmark, which times adapters by
/// themselves.
pub(crate) fn adapters_are_known_to_few(members: &[Manifest]) -> Vec<String> {
    let adapters = TECHNOLOGIES.map(|(folder, _)| folder.replace("adapters/", "ai4free-"));
    let mut violations = Vec::new();
    for member in members.iter().filter(|member| member.folder != ".") {
        let sections: &[&str] = match &*member.folder {
            "benches" => &["dependencies", "build-dependencies"],
            _ => &["dependencies", "dev-dependencies", "build-dependencies"],
        };
        let named = sections.iter().flat_map(|section| member.dependencies(section));
        // A crate that depends on itself switches on a feature for its own tests.
        let others = named.filter(|(_, value)| value.get("path").is_none());
        violations.extend(others.filter(|(name, _)| adapters.iter().any(|adapter| adapter == name)).map(
            |(name, _)| {
                format!("{}/Cargo.toml: depends on {name}: adapters are for src/wiring.rs to name", member.folder)
            },
        ));
    }
    violations
}

/// Each member takes lints and dependencies from the workspace, so that there is one list of each.
pub(crate) fn members_inherit_from_the_workspace(members: &[Manifest]) -> Vec<String> {
    let inherits = |value: &Value| value.get("workspace").and_then(Value::as_bool) == Some(true);
    // A crate that depends on itself switches on a feature for its own tests.
    let is_itself = |value: &Value| value.get("path").and_then(Value::as_str) == Some(".");
    let mut violations = Vec::new();
    for member in members {
        // Contract and proofs are tests: they panic by design. Everything else keeps the lints.
        if !["ports/contract", "tests/prove"].contains(&member.folder.as_str())
            && !member.table.get("lints").is_some_and(inherits)
        {
            violations.push(format!(
                "{}/Cargo.toml: has no `[lints] workspace = true`: the bans hold everywhere",
                member.folder
            ));
        }
        for (name, value) in ["dependencies", "dev-dependencies", "build-dependencies"]
            .into_iter()
            .flat_map(|section| member.dependencies(section))
        {
            if !inherits(value) && !is_itself(value) {
                violations.push(format!(
                    "{}/Cargo.toml: {name} is not `workspace = true`: versions and features are chosen once, or crates are built twice",
                    member.folder
                ));
            }
        }
    }
    violations
}

/// Each line of `[workspace.dependencies]` that brings in somebody else's code says what for.
pub(crate) fn dependencies_have_a_purpose(root_manifest: &str) -> Vec<String> {
    let section = root_manifest.lines().enumerate().skip_while(|(_, line)| *line != "[workspace.dependencies]").skip(1);
    section
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| line.contains(" = ") && !line.contains("path = ") && !line.contains(" # "))
        .map(|(index, line)| {
            format!("Cargo.toml:{}: `{line}` has no comment: a dependency says in one line what it is for", index + 1)
        })
        .collect()
}

/// There is one TLS implementation, and no C library to match or to patch.
pub(crate) fn lock_has_one_tls(lock: &str) -> Result<Vec<String>, toml::de::Error> {
    const BANNED: [&str; 5] = ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"];
    let table: Table = lock.parse()?;
    let packages = table.get("package").and_then(Value::as_array).into_iter().flatten();
    let names = packages.filter_map(|package| package.get("name")?.as_str());
    Ok(names
        .filter(|name| BANNED.contains(name))
        .map(|name| format!("Cargo.lock: has {name}: TLS is rustls with ring; with a second provider rustls has no default and panics"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{
        Manifest, adapters_are_known_to_few, adapters_keep_to_their_technology, dependencies_have_a_purpose,
        lock_has_one_tls, members_inherit_from_the_workspace, ports_stay_pure,
    };

    fn member(folder: &str, text: &str) -> [Manifest; 1] {
        [Manifest::parse(folder, text).unwrap()]
    }

    #[test]
    fn ports_may_not_depend_on_a_runtime() {
        assert_eq!(ports_stay_pure(&member("ports", "[dependencies]\nbytes.workspace = true")).len(), 0);
        assert_eq!(ports_stay_pure(&member("ports", "[dependencies]\ntokio.workspace = true")).len(), 1);
        assert_eq!(ports_stay_pure(&member("ports", "[build-dependencies]\ncc.workspace = true")).len(), 1);
    }

    #[test]
    fn an_adapter_may_depend_neither_on_another_nor_on_its_technology() {
        let check = |folder: &str, name: &str| {
            adapters_keep_to_their_technology(&member(folder, &format!("[dependencies]\n{name}.workspace = true")))
                .len()
        };
        assert_eq!(check("adapters/redis", "fred"), 0);
        assert_eq!(check("adapters/redis", "tracing"), 0);
        assert_eq!(check("adapters/redis", "ai4free-local"), 1);
        assert_eq!(check("adapters/local", "fred"), 1);
        assert_eq!(check("adapters/sql", "reqwest"), 1);
        assert_eq!(check("adapters/unheard-of", "tracing"), 1);
        assert_eq!(check("src", "reqwest"), 0);
    }

    #[test]
    fn an_adapter_is_for_wiring_and_for_the_parts_of_the_benchmark() {
        let check = |folder: &str, section: &str| {
            adapters_are_known_to_few(&member(folder, &format!("[{section}]\nai4free-local.workspace = true"))).len()
        };
        assert_eq!(check(".", "dependencies"), 0);
        assert_eq!(check("benches", "dev-dependencies"), 0);
        assert_eq!(check("benches", "dependencies"), 1);
        assert_eq!(check("tests/prove", "dependencies"), 1);
        assert_eq!(check("ports/contract", "dev-dependencies"), 1);
        let itself = "[dev-dependencies]\nai4free-redis = { path = \".\", features = [\"contract\"] }";
        assert_eq!(adapters_are_known_to_few(&member("adapters/redis", itself)).len(), 0);
    }

    #[test]
    fn a_member_may_have_neither_its_own_lints_nor_its_own_versions() {
        let check = |text: &str| members_inherit_from_the_workspace(&member("adapters/redis", text)).len();
        assert_eq!(
            check(
                "[lints]\nworkspace = true\n[dependencies]\nfred.workspace = true\nuuid = { workspace = true, features = [\"v7\"] }"
            ),
            0
        );
        assert_eq!(
            check(
                "[lints]\nworkspace = true\n[dev-dependencies]\nai4free-redis = { path = \".\", features = [\"contract\"] }"
            ),
            0
        );
        assert_eq!(check("[lints]\nworkspace = true\n[dependencies]\nai4free-local = { path = \"../local\" }"), 1);
        assert_eq!(check("[dependencies]\nfred.workspace = true"), 1);
        assert_eq!(check("[lints]\nworkspace = true\n[dependencies]\nfred = \"10\""), 1);
        assert_eq!(check("[lints]\nworkspace = true\n[dev-dependencies]\nfred = { version = \"10\" }"), 1);
    }

    #[test]
    fn a_dependency_without_a_purpose_is_named_with_its_line() {
        let check = |line: &str| {
            dependencies_have_a_purpose(&format!(
                "[workspace.dependencies]\nours = {{ path = \"ours\" }}\n\n{line}\n\n[package]\na = \"b\"\n"
            ))
        };
        assert_eq!(check("bytes = \"1\" # slices").len(), 0);
        let violations = check("bytes = \"1\"");
        assert!(violations.concat().starts_with("Cargo.toml:4: "), "{violations:?}");
    }

    #[test]
    fn a_second_tls_is_seen_in_the_lock_file() {
        let check = |name: &str| {
            lock_has_one_tls(&format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n")).unwrap().len()
        };
        assert_eq!(check("ring"), 0);
        assert_eq!(check("openssl-probe"), 0);
        for banned in ["aws-lc-sys", "openssl-sys", "native-tls"] {
            assert_eq!(check(banned), 1);
        }
    }
}
