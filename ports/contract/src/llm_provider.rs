//! Contract of [`ai4free_ports::llm_provider::LlmProvider`].
//!
//! Three groups: what every provider keeps ([`llm_provider_reply_contract!`](crate::llm_provider_reply_contract), also one
//! that answers from the process itself), what one over HTTP keeps
//! ([`llm_provider_upstream_contract!`](crate::llm_provider_upstream_contract), played against a scripted upstream on a real
//! socket), and what one keeps that speaks its client's protocol
//! ([`llm_provider_byte_lane_contract!`](crate::llm_provider_byte_lane_contract)).

pub mod conversation;
mod failures;
mod replies;
pub mod upstream;
pub mod wire;

use std::sync::Arc;

use ai4free_ports::{dialect::Dialect, llm_provider::LlmProvider};

pub use failures::*;
pub use replies::*;

/// The secret of the one credential of a provider under test. It must never be seen but by the upstream.
pub const SECRET: &str = "sk-canary-0123456789abcdefghijklmnopqrstuv";

/// How to make a provider.
pub trait Harness {
    /// The protocol of the client: OpenAI's, in which the requests of the clauses are written.
    fn dialect(&self) -> Arc<dyn Dialect>;

    /// A fresh provider with one credential, whose secret is [`SECRET`]. If it has an upstream, that is OpenAI-compatible
    /// and at this base URL; if it has none, it echoes the last user message and obeys `call NAME {json}`.
    fn provider(&self, base_url: &str) -> Arc<dyn LlmProvider>;
}

/// Runs each clause as a test of its own: `llm_provider_reply_contract!(harness)`.
#[macro_export]
macro_rules! llm_provider_reply_contract {
    ($harness:expr) => {
        $crate::llm_provider_clauses!($harness =>
            a_text_is_answered,
            a_streamed_text_is_the_same_text,
            a_tool_call_keeps_its_name_and_arguments,
            a_stream_has_one_finish_then_usage_then_its_end,
            usage_is_a_fact_even_when_the_client_did_not_ask,
            a_dropped_stream_ends_quietly,
        );
    };
}

/// Runs each clause as a test of its own: `llm_provider_upstream_contract!(harness)`.
#[macro_export]
macro_rules! llm_provider_upstream_contract {
    ($harness:expr) => {
        $crate::llm_provider_clauses!($harness =>
            parallel_tool_calls_split_over_chunks_are_kept_apart,
            nothing_is_read_behind_the_end_event,
            a_json_body_becomes_a_stream_of_one_piece,
            http_errors_are_classified,
            an_error_in_place_of_the_first_event_is_an_error_of_the_call,
            an_error_body_with_status_200_is_an_error,
            a_redirect_is_an_error_and_is_not_followed,
            a_refused_connection_was_not_sent,
            garbage_is_an_error_and_not_a_panic,
            a_cut_stream_is_an_error_and_not_a_second_request,
            dropping_a_stream_closes_the_upstream_connection,
            dropping_a_pending_call_closes_the_upstream_connection,
            the_first_event_has_a_deadline,
            silence_in_a_stream_has_a_deadline,
            an_error_behind_a_good_event_does_not_wait_for_more,
            a_whole_stream_has_a_deadline,
            a_whole_reply_has_a_deadline,
            no_error_holds_the_secret,
        );
    };
}

/// Runs each clause as a test of its own: `llm_provider_byte_lane_contract!(harness)`.
#[macro_export]
macro_rules! llm_provider_byte_lane_contract {
    ($harness:expr) => {
        $crate::llm_provider_clauses!($harness =>
            unknown_members_reach_the_wire_byte_for_byte,
            comments_are_no_silence,
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! llm_provider_clauses {
    ($harness:expr => $($clause:ident,)*) => {
        $(
            #[tokio::test]
            async fn $clause() {
                $crate::llm_provider::$clause(&$harness).await;
            }
        )*
    };
}
