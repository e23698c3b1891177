//! A provider of OpenAI's protocol that answers at once, or as slowly as the model's name says.

mod answer;
mod paced;
mod script;
mod server;

pub(crate) use server::serve;
