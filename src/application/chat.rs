//! Chat completions, audio through chat among them.

use std::sync::Arc;

use ai4free_ports::{
    catalogue::{Model, ModelKind, Snapshot},
    error::RequestError,
    key::StoredKey,
};

use crate::application::{
    attempt::{Answer, Lane},
    failure::Failure,
    inference::{Accepted, Inbound, Inference},
};

#[derive(Clone)]
pub struct Chat {
    pub inference: Arc<Inference>,
}

impl Chat {
    /// # Errors
    /// Every [`Failure`] but those of key administration.
    pub async fn complete(&self, inbound: Inbound) -> Result<Answer, Failure> {
        let snapshot = self.inference.catalogue.current();
        self.inference.run(inbound, Lane::Client, |inbound| accept(inbound, &snapshot)).await
    }
}

pub(super) fn accept(inbound: &Inbound, snapshot: &Snapshot) -> Result<Accepted, Failure> {
    let view = inbound.dialect.view(inbound.operation, &inbound.body)?;
    let model = usable_model(snapshot, inbound.principal.key(), &view.model)?;
    if model.kind == ModelKind::Image {
        let message = format!("The model `{}` makes images; use the images endpoint.", model.id);
        return Err(RequestError::new(message).param("model").code("invalid_value").into());
    }
    Ok(Accepted { request: inbound.viewed(view), model })
}

/// A model that exists and that the key may use. One that the key may not use is not denied to exist: the list of models is
/// public by default.
pub(super) fn usable_model(snapshot: &Snapshot, key: &StoredKey, name: &str) -> Result<Arc<Model>, Failure> {
    let model = snapshot.find(name).ok_or_else(|| Failure::ModelNotFound { model: name.to_owned() })?;
    if !key.allows_model(&model.id) {
        return Err(Failure::ModelNotAllowed { model: name.to_owned() });
    }
    Ok(model)
}
