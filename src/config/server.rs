//! `[server]`, `[http]`, `[admin]`: what is listened on, and what a client may hold.

use std::{net::SocketAddr, time::Duration};

use super::section::Section;

const DAY: u64 = 24 * 60 * 60;
/// When a setting can't be read; the configuration is refused then.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub keep_alive: Duration,
    pub write_timeout: Duration,
    pub drain: Duration,
    pub pre_stop: Duration,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub docs: bool,
    pub public_models: bool,
    pub cors_origins: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Admin {
    /// `None`: no admin listener.
    pub listen: Option<SocketAddr>,
}

pub(super) fn read_server(section: Section<'_>) -> Server {
    let size = |key, range| usize::try_from(section.number(key, range)).unwrap_or(usize::MAX);
    let server = Server {
        listen: section.address("listen").unwrap_or(NOWHERE),
        max_connections: size("max_connections", 1..=1_000_000),
        max_body_bytes: size("max_body_bytes", 1024..=1 << 30),
        header_timeout: section.seconds("header_timeout_seconds", 1..=DAY),
        body_timeout: section.seconds("body_timeout_seconds", 1..=DAY),
        keep_alive: section.seconds("keep_alive_seconds", 1..=DAY),
        write_timeout: section.seconds("write_timeout_seconds", 1..=DAY),
        drain: section.seconds("drain_seconds", 0..=DAY),
        pre_stop: section.seconds("pre_stop_seconds", 0..=DAY),
    };
    if section.optional_text("listen").is_none() {
        section.wrong("listen", "must not be empty");
    }
    section.finish();
    server
}

pub(super) fn read_http(section: Section<'_>) -> Http {
    let cors_origins = section.list("cors_origins");
    let is_origin = |origin: &String| {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        origin == "*" || rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
    };
    if !cors_origins.iter().all(is_origin) {
        section.wrong("cors_origins", "expected `*` or origins like https://app.example.com");
    }
    let http = Http {
        docs: section.boolean("docs", true),
        public_models: section.boolean("public_models", true),
        cors_origins,
    };
    section.finish();
    http
}

pub(super) fn read_admin(section: Section<'_>) -> Admin {
    let admin = Admin { listen: section.address("listen") };
    section.finish();
    admin
}
