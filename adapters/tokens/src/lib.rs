//! Counts tokens with the tokenizers of OpenAI's models, by [`tiktoken_rs`].

mod counter;
mod pieces;

pub use counter::TiktokenCounter;
