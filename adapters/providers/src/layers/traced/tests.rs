use std::{
    io,
    sync::{Arc, Mutex},
};

use ai4free_contract::llm_provider::{
    Harness, SECRET,
    conversation::{Transcript, chat},
    upstream::Upstream,
    wire,
};
use ai4free_ports::provider_settings::Quirks;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::{build, contract_tests::OverHttp};

/// Everything that a subscriber at the finest level prints.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn subscribe(log: &Log) -> tracing::subscriber::DefaultGuard {
    let log = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || log.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::CLOSE)
        .finish();
    tracing::subscriber::set_default(subscriber)
}

#[tokio::test]
async fn a_span_tells_model_provider_and_tokens_and_neither_prompt_nor_secret() {
    let log = Log::default();
    let guard = subscribe(&log);
    let harness = OverHttp(build, Quirks::default());
    let echo = format!(r#"{{"error":{{"message":"bad key {SECRET}"}}}}"#);
    let scripts = [wire::stream(&[r#"{"content":"answer-canary"}"#], "stop"), wire::json(401, "", &echo)];
    let upstream = Upstream::start(scripts).await;
    let provider = harness.provider(&upstream.url());
    let ask = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"prompt-canary"}]}"#;
    Transcript::of(&harness, &*provider, chat(&harness, ask)).await;
    assert!(provider.call(chat(&harness, ask)).await.is_err());
    drop(guard);

    let log = log.text();
    for attribute in [
        "gen_ai.operation.name=\"chat\"",
        "gen_ai.provider.name=\"test\"",
        "gen_ai.request.model=\"upstream-model\"",
        "gen_ai.usage.input_tokens=5",
        "gen_ai.usage.output_tokens=5",
        "error.type=\"upstream_credential\"",
        "ai4free.credential=\"test#1\"",
        "otel.name=\"chat upstream-model\"",
    ] {
        assert!(log.contains(attribute), "{attribute} in {log}");
    }
    for canary in ["prompt-canary", "answer-canary", SECRET] {
        assert!(!log.contains(canary), "{canary} in {log}");
    }
}
