//! The admin listener: metrics for Prometheus, apart from the clients' port. Off until it is configured.

use std::sync::Arc;

use poem::{EndpointExt, Response, Route, endpoint::make_sync};

use crate::http::{app::App, error};

/// `GET /metrics`, rendered anew for each scrape.
#[must_use]
pub fn app(render: Arc<dyn Fn() -> String + Send + Sync>) -> App {
    let metrics =
        make_sync(move |_| Response::builder().content_type("text/plain; version=0.0.4; charset=utf-8").body(render()));
    let routes = Route::new().at("/metrics", poem::get(metrics)).catch_all_error(error::from_framework);
    App::of_routes(routes.map_to_response().boxed())
}
