//! The first key of a new installation, so that a newcomer's first request needs no administration.

use std::{io::Write, net::SocketAddr};

use crate::application::{
    failure::Failure,
    keys::{Keys, NewKey},
};

/// Creates a key if there has never been one. Prints it on stdout, whatever the log level: it can't be shown again.
///
/// # Errors
/// When the store can't be read or written.
pub async fn first_key(keys: &Keys, plan: &str, address: SocketAddr) -> Result<(), Failure> {
    if !keys.list(None, 1).await?.keys.is_empty() {
        return Ok(());
    }
    let plans = keys.policy.current();
    let plan = plans.plans.contains_key(plan).then(|| plan.to_owned());
    let issued = keys.create(NewKey { name: "bootstrap".to_owned(), plan, ..NewKey::default() }).await?;
    let welcome = format!(
        "\nThis is a new installation. Its first API key, shown only now:\n\n    {key}\n\nTry it:\n\n    \
         curl -N http://{address}/v1/chat/completions \\\n      -H 'Authorization: Bearer {key}' \\\n      \
         -H 'Content-Type: application/json' \\\n      \
         -d '{{\"model\":\"local/echo\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello, gateway!\"}}]}}'\n\n",
        key = issued.text.reveal(),
    );
    // Nobody may be reading: then the key can still be replaced with `ai4free keys create`.
    let _ = std::io::stdout().write_all(welcome.as_bytes());
    Ok(())
}
