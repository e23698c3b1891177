//! The application: the routes, the specification that is generated from them, and what every answer has in common.

use std::{
    collections::HashMap,
    marker::PhantomData,
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use ai4free_ports::{dialect::Dialect, provider_settings::Secret};
use hyper::body::Incoming;
use poem::{
    Addr, Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Route,
    endpoint::{BoxEndpoint, make_sync},
    http::{HeaderValue, Method, header, uri::Scheme},
    middleware::CatchPanic,
    web::{LocalAddr, RemoteAddr},
};
use poem_openapi::{
    LicenseObject, OpenApi, OpenApiService,
    registry::{MetaApi, Registry},
};
use tokio_util::sync::CancellationToken;

use crate::{
    application::{
        authentication::Authentication, chat::Chat, images::Images, keys::Keys, models::Models, observation::Refusals,
        uptime::Uptime, usage::Usage,
    },
    http::{
        ReadinessSource,
        api::{ChatApi, HealthApi, ImagesApi, KeysApi, ModelsApi, UptimeApi, UsageApi},
        context::RequestContext,
        cors::{self, Origins},
        direct::Direct,
        error::{self, ApiError},
        payload::BodyLimits,
        reply_body::ReplyBody,
        state::AppState,
        throttle::Throttle,
    },
};

/// What a listener serves.
pub struct App {
    /// Asked first, if it is there.
    direct: Option<Direct>,
    routes: BoxEndpoint<'static, Response>,
}

/// Everything that the HTTP surface drives.
pub struct Surface {
    pub authentication: Arc<Authentication>,
    pub refusals: Arc<Refusals>,
    pub chat: Chat,
    pub images: Images,
    pub models: Models,
    pub keys: Keys,
    pub usage: Usage,
    pub uptime: Arc<Uptime>,
    pub readiness: Arc<dyn ReadinessSource>,
    /// The protocol of `/v1/chat/completions` and `/v1/images/generations`.
    pub openai: Arc<dyn Dialect>,
    pub system_secret: Secret,
    pub body_limits: BodyLimits,
    pub cors: Origins,
    /// Whether `/v1/models` may be read without a key.
    pub public_models: bool,
    /// Whether `/openapi.json` and `/docs` are served.
    pub docs: bool,
    /// Cuts open streams at the end of a shutdown.
    pub cut: CancellationToken,
}

impl Surface {
    #[must_use]
    pub fn into_app(self) -> App {
        let state = Arc::new(AppState {
            authentication: self.authentication,
            refusals: self.refusals,
            system_secret: self.system_secret,
            body_limits: self.body_limits,
            throttle: Throttle::default(),
        });
        let direct = Direct {
            state: state.clone(),
            chat: self.chat.clone(),
            images: self.images.clone(),
            openai: self.openai.clone(),
            cors: self.cors.clone(),
            cut: self.cut.clone(),
        };
        let apis = (
            ChatApi { chat: self.chat, openai: self.openai.clone(), cut: self.cut },
            ImagesApi { images: self.images, openai: self.openai },
            ModelsApi { models: self.models, public: self.public_models },
            UsageApi { usage: self.usage },
            UptimeApi { uptime: self.uptime },
            KeysApi { keys: self.keys },
            HealthApi { readiness: self.readiness },
        );
        let mut routes = Route::new();
        if self.docs {
            routes = with_docs(routes);
        }
        let routes = routes
            .nest("/", service(apis))
            .data(state)
            .catch_all_error(error::from_framework)
            .with(CatchPanic::new().with_handler(|_| ApiError::internal().into_response()));
        let routes = Shared { routes: routes.into_endpoint(), cors: self.cors }.boxed();
        App { direct: Some(direct), routes }
    }
}

impl App {
    /// One that the framework alone serves.
    pub(super) fn of_routes(routes: BoxEndpoint<'static, Response>) -> Self {
        Self { direct: None, routes }
    }

    pub(super) async fn respond(
        &self,
        mut request: hyper::Request<Incoming>,
        context: RequestContext,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> hyper::Response<ReplyBody> {
        if let Some((direct, operation)) = self.direct.as_ref().zip(Direct::operation(&request)) {
            return direct.serve(operation, request, context).await;
        }
        request.extensions_mut().insert(context);
        let (local, remote) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(remote)));
        let request = Request::from((request, local, remote, Scheme::HTTP));
        // Boxed: most requests are none of the framework's, and would carry its large future about.
        let response = Box::pin(self.routes.get_response(request)).await;
        hyper::Response::from(response).map(ReplyBody::Framework)
    }
}

/// The specification as it is served and committed: `openapi/openapi.json`.
#[must_use]
pub fn specification() -> String {
    let mut spec = documentation().spec();
    spec.push('\n');
    spec
}

fn documentation() -> OpenApiService<impl OpenApi, ()> {
    type Apis = (ChatApi, ImagesApi, ModelsApi, UsageApi, UptimeApi, KeysApi, HealthApi);
    service(Documented::<Apis>(PhantomData))
}

/// APIs by their documentation alone: the specification needs none of their parts.
struct Documented<T>(PhantomData<fn() -> T>);

impl<T: OpenApi> OpenApi for Documented<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

fn service<T: OpenApi + 'static>(apis: T) -> OpenApiService<T, ()> {
    OpenApiService::new(apis, "ai4free", env!("CARGO_PKG_VERSION"))
        .description(
            "An OpenAI-compatible gateway in front of many LLM providers, with API keys, limits and an exact usage ledger. \
             Any OpenAI client works: point its base URL at `/v1` of this server.",
        )
        .license(LicenseObject::new("MIT"))
        .server("/")
}

/// Swagger UI with everything it needs inside the page: a browser makes no request to anywhere else. Made when it is first
/// asked for, which most processes never are: it takes megabytes.
fn with_docs(routes: Route) -> Route {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                          connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";
    let page = LazyLock::new(|| bytes::Bytes::from(documentation().swagger_ui_html()));
    let spec = LazyLock::new(|| bytes::Bytes::from(specification()));
    let docs = make_sync(move |_| {
        let response = Response::builder().content_type("text/html; charset=utf-8");
        response.header(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)).body(page.clone())
    });
    let document = make_sync(move |_| Response::builder().content_type("application/json").body(spec.clone()));
    routes.at("/docs", poem::get(docs)).at("/openapi.json", poem::get(document))
}

/// What every answer passes: CORS.
struct Shared<E> {
    routes: E,
    cors: Origins,
}

impl<E: Endpoint<Output = Response>> Endpoint for Shared<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if let Some(preflight) = cors::preflight(&self.cors, &request) {
            return Ok(preflight);
        }
        let origin = cors::allowed(&self.cors, request.uri().path(), request.headers());
        let mut response = self.routes.get_response(request).await;
        cors::mark(response.headers_mut(), origin);
        Ok(response)
    }
}
