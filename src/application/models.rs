//! The list of models, as a caller may see it.

use std::sync::Arc;

use ai4free_ports::catalogue::{Catalogue, Model};

use crate::application::{authentication::Principal, failure::Failure};

pub struct Models {
    pub catalogue: Arc<dyn Catalogue>,
}

impl Models {
    /// In the order of the catalogue; a key sees only what it may use.
    #[must_use]
    pub fn list(&self, principal: Option<&Principal>) -> Vec<Arc<Model>> {
        let allowed = |model: &Arc<Model>| principal.is_none_or(|principal| principal.key().allows_model(&model.id));
        self.catalogue.current().models.iter().filter(|model| allowed(model)).cloned().collect()
    }

    /// # Errors
    /// [`Failure::ModelNotFound`], also for a model that the key may not use.
    pub fn show(&self, principal: Option<&Principal>, name: &str) -> Result<Arc<Model>, Failure> {
        let found = self.catalogue.current().find(name);
        let allowed = |model: &Arc<Model>| principal.is_none_or(|principal| principal.key().allows_model(&model.id));
        found.filter(allowed).ok_or_else(|| Failure::ModelNotFound { model: name.to_owned() })
    }
}
