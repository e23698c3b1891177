//! The view of a request, and the provider's body made of it.

use std::sync::Arc;

use ai4free_ports::{
    dialect::Dialect,
    request::{Edits, InboundRequest, Operation},
};
use ai4free_providers::dialects;
use bytes::Bytes;
use divan::{Bencher, counter::BytesCount};

/// Bytes of the prompt.
const PROMPTS: [usize; 3] = [400, 10_000, 65_536];

fn body(prompt: usize) -> Bytes {
    let text: String = "Explain what a reverse proxy does. ".chars().cycle().take(prompt).collect();
    format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"You are a helpful assistant that answers briefly and exactly."}},{{"role":"user","content":"{text}"}}],"temperature":0.7,"max_tokens":256,"stream":true}}"#
    )
    .into()
}

fn dialect() -> Arc<dyn Dialect> {
    dialects::by_name("openai").unwrap()
}

#[divan::bench(args = PROMPTS)]
fn view(bencher: Bencher<'_, '_>, prompt: usize) {
    let (dialect, body) = (dialect(), body(prompt));
    bencher.counter(BytesCount::new(body.len())).bench(|| dialect.view(Operation::Chat, &body));
}

#[divan::bench(args = PROMPTS)]
fn splice(bencher: Bencher<'_, '_>, prompt: usize) {
    let (dialect, body) = (dialect(), body(prompt));
    let view = Arc::new(dialect.view(Operation::Chat, &body).unwrap());
    let request = InboundRequest { operation: Operation::Chat, dialect: dialect.clone(), body, view };
    let edits =
        Edits { model: "gpt-4o-mini-2024".into(), output_cap: None, output_cap_field: None, ask_for_usage: true };
    bencher.bench(|| dialect.splice(&request, &edits));
}
