//! Image generation.

use std::sync::Arc;

use ai4free_ports::{
    catalogue::{ModelKind, Snapshot},
    error::RequestError,
};

use crate::application::{
    attempt::{Answer, Lane},
    chat::usable_model,
    failure::Failure,
    inference::{Accepted, Inbound, Inference},
};

#[derive(Clone)]
pub struct Images {
    pub inference: Arc<Inference>,
}

impl Images {
    /// # Errors
    /// Every [`Failure`] but those of key administration.
    pub async fn generate(&self, inbound: Inbound) -> Result<Answer, Failure> {
        let snapshot = self.inference.catalogue.current();
        self.inference.run(inbound, Lane::Client, |inbound| accept(inbound, &snapshot)).await
    }
}

fn accept(inbound: &Inbound, snapshot: &Snapshot) -> Result<Accepted, Failure> {
    let view = inbound.dialect.view(inbound.operation, &inbound.body)?;
    let named = Some(&*view.model).filter(|name| !name.is_empty());
    let name = named.or(snapshot.default_image_model.as_deref());
    let name = name.ok_or_else(|| RequestError::new("Missing required parameter: 'model'.").param("model"))?;
    let model = usable_model(snapshot, inbound.principal.key(), name)?;
    // A pattern's models are not in the catalogue, so their kind is not known: the provider decides.
    let listed = model.label == model.id;
    if listed && model.kind != ModelKind::Image {
        let message = format!("The model `{}` does not make images; use the chat endpoint.", model.id);
        return Err(RequestError::new(message).param("model").code("invalid_value").into());
    }
    Ok(Accepted { request: inbound.viewed(view), model })
}
