use std::sync::Arc;

use ai4free_ports::catalogue::{Catalogue, Snapshot};
use arc_swap::ArcSwap;

/// The catalogue in memory. Reading it takes no lock; a reload replaces it whole.
pub struct SwappableCatalogue {
    snapshot: ArcSwap<Snapshot>,
}

impl SwappableCatalogue {
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot) }
    }

    pub fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

impl Catalogue for SwappableCatalogue {
    fn current(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_snapshot_keeps_it_over_a_replacement() {
        let catalogue = SwappableCatalogue::new(Snapshot::default());
        let held = catalogue.current();
        catalogue.replace(Snapshot { default_image_model: Some("painter".into()), ..Snapshot::default() });
        assert_eq!(held.default_image_model, None);
        assert_eq!(catalogue.current().default_image_model.as_deref(), Some("painter"));
    }
}
