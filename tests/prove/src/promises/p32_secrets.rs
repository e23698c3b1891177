//! Every secret and a prompt, looked for in everything that the gateway writes anywhere, at the most talkative log level.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use futures_util::FutureExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{Lane, Order},
    rig::{
        Answer, Rig,
        catalogue::{CHEAP, IMAGE, Usage},
        chaos::Mode,
        client::Request,
        gateway::drained,
    },
    upstream::{Ending, Moment, Script},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P32",
    title: "no secret and no prompt is in a log (TRACE), metric, error, journal, Redis or database",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const PROMPT: &str = "canary-prompt of the patient & the ailment?";

/// A text that must not be found, and where it may be.
struct Needle {
    name: &'static str,
    text: String,
    /// An error may tell a client what the client said.
    may_be_in_errors: bool,
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let mut rig = stage.services.rig().set("RUST_LOG", "trace").start().await;
    let key = rig.gateways[0].key(json!({"user_id": "u", "limits": {"requests_per_minute": 100_000}})).await;
    let mut lane = Lane::new(key, rig.gateways[0].address);
    let errors = provoke(&mut rig, &mut lane).await;
    drained(&rig.gateways[0]).await;

    let gateway = &rig.gateways[0];
    let (_, secret) = lane.key.text.split_at(lane.key.text.find(&lane.key.id).unwrap() + lane.key.id.len());
    let needle = |name, text: &str, may_be_in_errors| Needle { name, text: text.to_owned(), may_be_in_errors };
    let needles = [
        needle("provider key", &rig.canaries.provider_key, false),
        needle("gateway key", &lane.key.text, false),
        needle("secret of the gateway key", secret, false),
        needle("system secret", &rig.canaries.system_secret, false),
        needle("pepper", &rig.canaries.pepper, false),
        needle("database password", &rig.canaries.database_password, false),
        needle("prompt", PROMPT, true),
    ];
    let log = gateway.log();
    findings.figure("log_bytes", log.len());
    // A log in which nothing is said hides nothing.
    findings.require(log.contains("\"TRACE\"") && log.contains(&lane.key.id), || "the log is not at TRACE".to_owned());
    let metrics = Request::new("GET", "/metrics").send(gateway.admin).await.unwrap().text();
    let places = [
        ("log", log),
        ("metrics", metrics),
        ("errors", errors),
        ("directory of the gateway", all_files(gateway.home())),
        ("redis", all_of_redis(&rig).await),
        ("database", rig.services.postgres.dump(&rig.database)),
    ];
    let mut hits = 0;
    for (place, text) in &places {
        findings.require(!text.is_empty(), || format!("there is nothing in {place}: it was not looked at"));
        findings.figure(&format!("bytes_of_{}", place.replace(' ', "_")), text.len());
        for needle in needles.iter().filter(|needle| *place != "errors" || !needle.may_be_in_errors) {
            for form in forms(&needle.text) {
                if let Some(at) = text.find(&form) {
                    hits += 1;
                    let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
                    let line: String = text[line..].chars().take(260).collect();
                    findings.violation(format!("{} in {place}: {line}", needle.name));
                }
            }
        }
    }
    findings.figure("needles", needles.len());
    findings.exactly("hits", 0, hits);
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// What is right and what goes wrong in every way; returns the bodies that were told.
async fn provoke(rig: &mut Rig<'_>, lane: &mut Lane) -> String {
    let mut told = String::new();
    let endings = [
        Ending::Complete,
        Ending::Echo(400),
        Ending::Echo(401),
        Ending::Echo(429),
        Ending::Echo(500),
        Ending::Status(503),
        Ending::Cut(Moment::BeforeHead),
        Ending::Cut(Moment::AfterChunks(1)),
        Ending::Reset(Moment::BeforeFirst),
        Ending::ErrorEvent(Moment::AfterChunks(1)),
    ];
    for is_stream in [false, true] {
        for ending in &endings {
            let mut order = Order::new(CHEAP, Usage::default(), Script::reporting(2, json!({})).ending(ending.clone()));
            order.prompt = PROMPT.to_owned();
            let order = if is_stream { order.streamed(true) } else { order };
            let sent = lane.send(order).await;
            told.push_str(&sent.failure.clone().unwrap_or_default());
            told.push('\n');
        }
    }
    let mut image =
        Order::new(IMAGE, Usage { images: 1, ..Usage::default() }, Script::reporting(1, json!({})).without_usage());
    image.prompt = PROMPT.to_owned();
    lane.send(image).await;
    let (gateway, text) = (&rig.gateways[0], lane.key.text.clone());
    let malformed = format!("{text}x");
    let body = json!({"model": format!("no/{PROMPT}"), "messages": [{"role": "user", "content": PROMPT}]});
    let requests = [
        Request::chat(&malformed, &Order::plain(CHEAP).body()),
        Request::chat(&text, &body),
        Request::chat(&text, &json!({"model": CHEAP.id, "messages": PROMPT, "secret": text})),
        Request::new("GET", "/v1/usage").header("authorization", &format!("Bearer {text}")),
        Request::new("GET", &format!("/v1/nothing?api_key={text}")),
        Request::new("POST", "/v1/api-keys").header("x-system-secret", &format!("{}x", rig.canaries.system_secret)),
        Request::new("POST", "/v1/api-keys")
            .header("x-system-secret", &rig.canaries.system_secret)
            .json(&json!({"name": 5, "pepper": rig.canaries.pepper})),
    ];
    for request in requests {
        let reply = request.send(gateway.address).await.unwrap();
        // What is echoed of a client's own wrong body is that client's.
        told.push_str(&reply.text().replace(&text, "").replace(&rig.canaries.pepper, ""));
        told.push('\n');
    }
    // Errors of the stores themselves.
    for mode in [Mode::Refuse, Mode::Pass] {
        rig.to_postgres.set(mode);
        rig.to_redis.set(mode);
        let fresh = rig.gateways[0].administer("GET", "/v1/api-keys", None).await;
        told.push_str(&if fresh.status == 200 { String::new() } else { fresh.text() });
        lane.send(Order::plain(CHEAP)).await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    told
}

/// As it is, percent-encoded, and in base64 at each of the three offsets at which it may stand in something longer.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned(), utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()];
    for offset in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(format!("{}{text}", "x".repeat(offset)));
        // Of the first group and of the last one only a part is of this text.
        let inner = &encoded[if offset == 0 { 0 } else { 4 }..encoded.len() - 4];
        forms.push(inner.to_owned());
    }
    forms.push(serde_json::to_string(text).unwrap().trim_matches('"').to_owned());
    forms.dedup();
    forms
}

fn all_files(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.push_str(&all_files(&entry.path()));
        } else {
            all.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap()));
        }
        all.push('\n');
    }
    all
}

async fn all_of_redis(rig: &Rig<'_>) -> String {
    let redis = &rig.services.redis;
    let names = redis.command(&["KEYS", "*"]).await;
    let mut all = String::new();
    for name in names.texts() {
        let read: &[&str] = match redis.command(&["TYPE", name]).await.text() {
            Some("hash") => &["HGETALL", name],
            Some("zset") => &["ZRANGE", name, "0", "-1"],
            Some("set") => &["SMEMBERS", name],
            Some("list") => &["LRANGE", name, "0", "-1"],
            _ => &["GET", name],
        };
        let value = redis.command(read).await;
        all.push_str(&format!("{name} {}\n", value.texts().join(" ")));
        assert!(!matches!(value, Answer::Error(_)), "{name}: {value:?}");
    }
    all
}
