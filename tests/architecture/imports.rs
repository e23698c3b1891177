//! Who may know whom.

use std::collections::BTreeSet;

use crate::source::{NamedPath, SourceFile};

/// What may be named in a few places only.
struct Boundary {
    /// Paths, with all that is inside them; a longer one in another boundary goes before.
    names: &'static [&'static str],
    /// Files, or folders when they end with `/`.
    homes: &'static [&'static str],
    reason: &'static str,
}

const ONE_TRANSPORT: &str = "every upstream call passes through one transport: its deadlines, pools, TLS and address rules have no way round them";

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        names: &["ai4free_local", "ai4free_providers", "ai4free_redis", "ai4free_sql", "ai4free_tokens"],
        homes: &["src/wiring.rs", "src/wiring/"],
        reason: "adapters are chosen in one place, the composition root: everything else knows their ports only",
    },
    Boundary {
        names: &["ai4free_migration"],
        homes: &["adapters/sql/", "src/wiring.rs", "src/wiring/"],
        reason: "the schema belongs to the database adapter",
    },
    Boundary {
        names: &["poem", "poem_openapi"],
        homes: &["src/http/"],
        reason: "the HTTP framework is a driving adapter: a use-case that knows it can't be driven by anything else",
    },
    Boundary {
        names: &["sea_orm", "sea_orm_migration", "sea_query", "sqlx"],
        homes: &["adapters/sql/", "migration/"],
        reason: "SQL is written behind the store ports, so that both databases keep one contract",
    },
    Boundary {
        names: &["fred"],
        homes: &["adapters/redis/"],
        reason: "Redis is one way of keeping limits, behind the RateLimiter port",
    },
    Boundary {
        names: &["hyper::client", "hyper_rustls", "hyper_util::client"],
        homes: &[
            "adapters/providers/src/transport.rs",
            "adapters/providers/src/transport/",
            // Sends traces to the operator's collector, nothing of a client's to a provider.
            "src/telemetry/collector_client.rs",
        ],
        reason: ONE_TRANSPORT,
    },
    Boundary {
        names: &["reqwest"],
        homes: &[
            "adapters/providers/src/sse.rs",
            "adapters/providers/src/transport.rs",
            "adapters/providers/src/transport/",
        ],
        reason: ONE_TRANSPORT,
    },
    Boundary {
        names: &["reqwest::Error"],
        homes: &["adapters/providers/"],
        reason: "a client's error stays inside the adapter that has the client, as the source of a ProviderError",
    },
    Boundary {
        names: &["hyper_util::client::legacy::connect::dns", "reqwest::dns"],
        homes: &[
            "adapters/providers/src/addresses.rs",
            "adapters/providers/src/transport.rs",
            "adapters/providers/src/transport/",
        ],
        reason: "which addresses may be connected to is decided in one file, for both clients",
    },
    Boundary {
        names: &["reqwest_eventsource"],
        homes: &["adapters/providers/src/sse.rs", "adapters/providers/src/sse/"],
        reason: "by default it sends the POST again after every end of stream; one file switches that off",
    },
    Boundary {
        names: &["tiktoken_rs"],
        homes: &["adapters/tokens/"],
        reason: "tokenizers are large and slow: they stay behind the TokenCounter port",
    },
];

/// Names that one place owns are named nowhere else.
pub(crate) fn boundaries_hold(files: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files {
        for path in file.named_paths() {
            let owner =
                boundary_of(&path).filter(|boundary| !boundary.homes.iter().any(|home| is_at_home(&file.path, home)));
            violations.extend(owner.map(|boundary| violation(file, &path, boundary.reason)));
        }
    }
    violations
}

/// `src/application` names the ports, itself, the standard library without I/O, and a few crates that do nothing by themselves.
pub(crate) fn use_cases_know_only_ports(files: &[SourceFile], dependencies: &BTreeSet<String>) -> Vec<String> {
    const ALLOWED: [&str; 7] =
        ["ai4free_ports", "async_trait", "bytes", "futures_core", "futures_util", "thiserror", "tracing"];
    const REASON: &str =
        "a use-case knows ports only, so that it runs the same over every adapter and is tested without any";
    let forbidden = |path: &NamedPath| match path.segments.first().map(String::as_str) {
        Some("crate") => path.segments.len() > 1 && !path.is_within("crate::application"),
        Some(name) => dependencies.contains(name) && !ALLOWED.contains(&name),
        None => false,
    };
    let use_cases = files.iter().filter(|file| file.path.starts_with("src/application/"));
    use_cases.flat_map(|file| violations_in(file, forbidden, REASON)).collect()
}

/// Ports and use-cases take nothing from the air: files, sockets, environment, processes, threads.
pub(crate) fn the_inside_does_no_io(files: &[SourceFile]) -> Vec<String> {
    const OUTSIDE: [&str; 9] = [
        "std::env",
        "std::fs",
        "std::net::TcpListener",
        "std::net::TcpStream",
        "std::net::ToSocketAddrs",
        "std::net::UdpSocket",
        "std::os",
        "std::process",
        "std::thread",
    ];
    let forbidden = |path: &NamedPath| OUTSIDE.iter().any(|name| path.is_within(name));
    let inside = files
        .iter()
        .filter(|file| ["ports/src/", "src/application/"].iter().any(|folder| file.path.starts_with(folder)));
    inside
        .flat_map(|file| {
            violations_in(file, forbidden, "the inside of the hexagon does no I/O: it goes through a port")
        })
        .collect()
}

/// Inside the root package each module names only those below it: cli → wiring → { http, config } and http → application.
pub(crate) fn modules_point_inwards(files: &[SourceFile]) -> Vec<String> {
    const REASON: &str =
        "inside the binary the arrows are cli → wiring → { http, application, config }, and http → application";
    const FORBIDDEN: [(&str, &[&str]); 5] = [
        ("src/config/", &["crate::application", "crate::cli", "crate::http", "crate::telemetry", "crate::wiring"]),
        ("src/http/", &["crate::cli", "crate::config", "crate::telemetry", "crate::wiring"]),
        ("src/telemetry/", &["crate::cli", "crate::http", "crate::wiring"]),
        ("src/wiring.rs", &["crate::cli"]),
        ("src/main.rs", &["ai4free::application", "ai4free::config", "ai4free::http", "ai4free::wiring"]),
    ];
    let mut violations = Vec::new();
    for (home, names) in FORBIDDEN {
        let forbidden = |path: &NamedPath| names.iter().any(|name| path.is_within(name));
        violations.extend(
            files
                .iter()
                .filter(|file| is_at_home(&file.path, home))
                .flat_map(|file| violations_in(file, forbidden, REASON)),
        );
    }
    violations
}

/// No file under `dialects/` names another dialect. A dialect is a file or folder there that implements `Dialect`.
pub(crate) fn dialects_do_not_know_each_other(files: &[SourceFile]) -> Vec<String> {
    const REASON: &str =
        "a dialect is one codec to and from the canonical form: knowing another one begins a matrix of converters";
    let in_dialects = || files.iter().filter_map(|file| Some((file, dialect_of(&file.path)?)));
    let dialects: BTreeSet<&str> =
        in_dialects().filter(|(file, _)| file.implements("Dialect")).map(|(_, dialect)| dialect).collect();
    let mut violations = Vec::new();
    for (file, own) in in_dialects().filter(|(_, own)| *own != "mod") {
        for (line, identifier) in file.identifiers() {
            let without_own = squashed(identifier).replace(&squashed(own), "");
            if let Some(other) = dialects.iter().find(|other| **other != own && without_own.contains(&squashed(other)))
            {
                violations.push(format!("{}:{line}: `{identifier}` names the dialect {other}: {REASON}", file.path));
            }
        }
    }
    violations
}

/// The boundary with the longest name that the path is within.
fn boundary_of(path: &NamedPath) -> Option<&'static Boundary> {
    let within = BOUNDARIES.iter().flat_map(|boundary| boundary.names.iter().map(move |name| (boundary, name)));
    let longest = within.filter(|(_, name)| path.is_within(name)).max_by_key(|(_, name)| name.len());
    longest.map(|(boundary, _)| boundary)
}

fn violations_in(file: &SourceFile, forbidden: impl Fn(&NamedPath) -> bool, reason: &str) -> Vec<String> {
    file.named_paths().iter().filter(|path| forbidden(path)).map(|path| violation(file, path, reason)).collect()
}

fn violation(file: &SourceFile, path: &NamedPath, reason: &str) -> String {
    format!("{}:{}: names `{}`: {reason}", file.path, path.line, path.text())
}

fn is_at_home(path: &str, home: &str) -> bool {
    path == home || (home.ends_with('/') && path.starts_with(home))
}

/// The first name under `dialects/`, without its extension.
fn dialect_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("adapters/providers/src/dialects/")?;
    inside.split(['/', '.']).next()
}

/// `OpenAiReply` and `open_ai_reply` are one name.
fn squashed(identifier: &str) -> String {
    identifier.replace('_', "").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{
        BTreeSet, SourceFile, boundaries_hold, dialects_do_not_know_each_other, modules_point_inwards,
        the_inside_does_no_io, use_cases_know_only_ports,
    };

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile::parse(path, text)
    }

    #[test]
    fn each_boundary_has_an_inside_and_an_outside() {
        let cases = [
            ("ai4free_sql::KeyStore", "src/wiring.rs", "src/cli/keys.rs"),
            ("ai4free_migration::Migrator", "adapters/sql/src/migrate.rs", "src/cli/db.rs"),
            ("poem::Endpoint", "src/http/server.rs", "src/application/chat.rs"),
            ("poem_openapi::Object", "src/http/dto/chat.rs", "ports/src/chat.rs"),
            ("sea_orm::EntityTrait", "adapters/sql/src/key_store.rs", "src/wiring.rs"),
            ("fred::prelude", "adapters/redis/src/rate_limiter.rs", "adapters/local/src/key_cache.rs"),
            ("hyper_util::client::legacy", "adapters/providers/src/transport.rs", "adapters/providers/src/driver.rs"),
            ("reqwest::Client", "adapters/providers/src/sse.rs", "src/application/uptime.rs"),
            ("reqwest::Client", "adapters/providers/src/transport.rs", "adapters/providers/src/addresses.rs"),
            ("reqwest::Error::without_url", "adapters/providers/src/driver.rs", "src/http/error.rs"),
            ("reqwest::dns::Resolve", "adapters/providers/src/addresses.rs", "adapters/providers/src/sse.rs"),
            (
                "reqwest_eventsource::EventSource",
                "adapters/providers/src/sse.rs",
                "adapters/providers/src/transport.rs",
            ),
            ("tiktoken_rs::o200k_base", "adapters/tokens/src/lib.rs", "src/application/admission.rs"),
        ];
        for (path, inside, outside) in cases {
            let text = format!("use std::fmt;\nfn a() {{ {path}() }}");
            assert_eq!(boundaries_hold(&[file(inside, &text)]), Vec::<String>::new());
            let violations = boundaries_hold(&[file(outside, &text)]);
            let [message] = violations.as_slice() else { panic!("{outside} may not name {path}: {violations:?}") };
            assert!(message.starts_with(&format!("{outside}:2: names `{path}`: ")), "{message}");
        }
    }

    #[test]
    fn a_use_case_may_not_name_a_framework_nor_the_modules_around_it() {
        let dependencies: BTreeSet<String> =
            ["ai4free_ports", "bytes", "http", "serde_json", "tokio", "tracing"].map(str::to_owned).into();
        let check =
            |text: &str| use_cases_know_only_ports(&[file("src/application/chat.rs", text)], &dependencies).len();
        assert_eq!(
            check(
                "use std::sync::Arc; use bytes::Bytes; use ai4free_ports::key::KeyId; use super::attempt; use crate::application::pricing;"
            ),
            0
        );
        assert_eq!(check("fn a() { tracing::info!(\"tokio::spawn\"); chat::b(); Vec::<u8>::new(); }"), 0);
        assert_eq!(check("#[cfg(test)] mod tests { #[tokio::test] async fn a() {} }"), 0);
        assert_eq!(check("fn a() { tokio::time::sleep(b) }"), 1);
        assert_eq!(check("use {serde_json::Value, std::fmt};"), 1);
        assert_eq!(check("use crate::{http::error, application::pricing};"), 1);
        assert_eq!(check("use super::super::config;"), 1);
        assert_eq!(check("pub(crate) use http::StatusCode;"), 1);
    }

    #[test]
    fn the_inside_may_name_an_address_and_not_a_socket() {
        let check = |path: &str, text: &str| the_inside_does_no_io(&[file(path, text)]).len();
        assert_eq!(check("ports/src/request.rs", "use std::net::IpAddr;"), 0);
        assert_eq!(check("ports/src/request.rs", "use std::{fs::File, net::TcpStream};"), 2);
        assert_eq!(check("src/application/chat.rs", "fn a() { std::env::var(b) }"), 1);
        assert_eq!(check("src/wiring.rs", "use std::fs::File;"), 0);
    }

    #[test]
    fn a_module_may_not_name_one_outside_it() {
        let check = |path: &str, text: &str| modules_point_inwards(&[file(path, text)]).len();
        assert_eq!(
            check("src/http/api/chat.rs", "use crate::{application::chat, http::error}; use super::super::auth;"),
            0
        );
        assert_eq!(check("src/http/api/chat.rs", "use crate::wiring::Gateway;"), 1);
        assert_eq!(check("src/config/limits.rs", "use crate::http::error;"), 1);
        assert_eq!(check("src/wiring.rs", "use crate::cli::Command;"), 1);
        assert_eq!(check("src/main.rs", "fn main() { ai4free::wiring::run() }"), 1);
        assert_eq!(check("src/main.rs", "fn main() { ai4free::cli::run() }"), 0);
    }

    #[test]
    fn a_dialect_may_not_name_another() {
        let codec = |name: &str| format!("impl Dialect for {name} {{}}");
        let folder = "adapters/providers/src/dialects";
        let check = |path: &str, text: &str| {
            let files = [
                file(&format!("{folder}/openai/mod.rs"), &codec("OpenAi")),
                file(&format!("{folder}/openai_responses.rs"), &codec("OpenAiResponses")),
                file(&format!("{folder}/anthropic.rs"), &codec("Anthropic")),
                file(&format!("{folder}/scan.rs"), "pub(crate) fn scan() {}"),
                file(&format!("{folder}/{path}"), text),
            ];
            dialects_do_not_know_each_other(&files).len()
        };
        assert_eq!(check("openai/tap.rs", "struct OpenAiTap; fn openai_tap() { super::scan::scan() }"), 0);
        assert_eq!(check("openai_responses.rs", "struct OpenAiResponsesTap;"), 0);
        assert_eq!(check("mod.rs", "use openai::OpenAi; use anthropic::Anthropic;"), 0);
        assert_eq!(check("anthropic.rs", "// unlike OpenAi\nconst A: &str = \"openai\";"), 0);
        assert_eq!(check("openai/tap.rs", "use super::super::anthropic::Event;"), 1);
        assert_eq!(check("anthropic.rs", "fn a(reply: OpenAiReply) {}"), 1);
        assert_eq!(check("scan.rs", "fn a(reply: &Anthropic) {}"), 1);
    }
}
