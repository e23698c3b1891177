//! The most that a request can use: what is reserved for it before it is sent.

use ai4free_ports::{
    catalogue::{Model, Price},
    money::PicoUsd,
    request::{InboundRequest, Operation},
    usage::TokenUsage,
};

use crate::application::{
    ceiling::Ceiling,
    leases::UpperBound,
    policy::Policy,
    slices::{self, SLICE},
};

/// Tokens of the text that a provider wraps tools in.
const TOOLS_OVERHEAD: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of all answers together.
    pub output: u64,
    /// Those of them that are reserved before it is sent. The others follow as it is answered.
    pub first_output: u64,
    pub images: u64,
    /// What its provider is believed, however much it reports.
    pub ceiling: Ceiling,
}

impl Bounds {
    /// `cap` is of each answer. Where something `is_limited`, all output is capped, and not more of it held than has to be.
    #[must_use]
    pub fn of(request: &InboundRequest, model: &Model, cap: Option<u64>, is_limited: bool, policy: &Policy) -> Self {
        let choices = u64::from(request.view.choices);
        if request.operation == Operation::ImageGeneration {
            let ceiling = Ceiling::of(model, choices, 0, 0);
            return Self { input: 0, output: 0, first_output: 0, images: choices, ceiling };
        }
        let cap = cap.or(model.max_output_tokens).unwrap_or(policy.default_output_tokens);
        let output = cap.saturating_mul(choices);
        let is_sliced = is_limited && request.view.stream && slices::can_be_sliced(model);
        let first_output = if is_sliced { output.min(SLICE) } else { output };
        let input = input(request, model, policy);
        Self { input, output, first_output, images: 0, ceiling: Ceiling::of(model, choices, input, output) }
    }

    /// What is reserved at first.
    #[must_use]
    pub fn first(&self, price: Option<&Price>) -> UpperBound {
        UpperBound {
            tokens: self.input.saturating_add(self.first_output),
            // More than can be written down is more than any budget.
            cost: price.map(|price| {
                price.upper_bound(self.input, self.first_output, self.images).unwrap_or(PicoUsd(i64::MAX))
            }),
        }
    }

    /// The same as it is charged if nobody can ever say how the request ended.
    #[must_use]
    pub fn usage(&self) -> TokenUsage {
        TokenUsage { input: self.input, output: self.first_output, images: self.images, ..TokenUsage::default() }
    }
}

/// A token is at least one byte of the body. Media is not bounded by its bytes: it may take the whole context.
#[must_use]
pub fn input(request: &InboundRequest, model: &Model, policy: &Policy) -> u64 {
    if request.view.has_media {
        model.max_input_tokens.unwrap_or(policy.default_context_tokens)
    } else {
        u64::try_from(request.body.len()).unwrap_or(u64::MAX).saturating_add(overhead(request))
    }
}

/// Tokens that a provider adds to what is in the body.
#[must_use]
pub fn overhead(request: &InboundRequest) -> u64 {
    if request.view.has_tools { TOOLS_OVERHEAD } else { 0 }
}
