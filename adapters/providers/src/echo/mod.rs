//! `local/echo`: answers from the process itself, so that everything works with no key and no network. Its replies are real
//! completions in every respect, save that the text is the prompt's.

mod answer;
mod provider;
mod stream;

pub use provider::EchoProvider;
