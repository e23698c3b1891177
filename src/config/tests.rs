//! The configuration as a whole: what a set of sources means.

mod prices;

use std::{collections::BTreeSet, fs};

use ai4free_ports::{
    catalogue::ModelKind,
    provider_settings::{AuthStyle, EndpointStyle, ImageStyle, OutputCapField, ProviderSettings, RotateOn},
};

use super::{
    ConfigErrors, Settings, Sources, database::DatabaseLocation, layers::USUAL_VARIABLES, load, old_system,
    test_calendar::TwoZones,
};

mod budgets;

const STRONG: &str = "zL0b9cq2vH8sT1xW7nR4kP6mY3dF5gJ0";

fn sources(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    load(&sources(variables), &TwoZones).unwrap()
}

fn errors(sources: &Sources) -> ConfigErrors {
    load(sources, &TwoZones).expect_err("an error")
}

/// Sources with a configuration file, and the directory that holds it.
fn with_file(name: &str, text: &str, variables: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    fs::write(&file, text).unwrap();
    let sources = Sources { file: Some(file), ..sources(variables) };
    (directory, sources)
}

fn provider<'a>(settings: &'a Settings, id: &str) -> &'a ProviderSettings {
    settings.providers.find(id).unwrap_or_else(|| panic!("{id} is not enabled: {:?}", settings.notes))
}

fn secrets(provider: &ProviderSettings) -> Vec<&str> {
    provider
        .credentials
        .iter()
        .filter_map(|c| c.secret.as_ref())
        .map(ai4free_ports::provider_settings::Secret::expose)
        .collect()
}

fn database(settings: &Settings) -> String {
    match &settings.database.location {
        DatabaseLocation::Sqlite { path } => format!("sqlite {}", path.display()),
        DatabaseLocation::Postgres { url } => url.expose().to_owned(),
    }
}

/// Ids of the models that an environment makes available, `local/echo` apart.
fn available(settings: &Settings) -> BTreeSet<&str> {
    settings.catalogue.models.iter().filter(|m| m.available && &*m.id != "local/echo").map(|m| &*m.id).collect()
}

/// Id, its variables, how many models it serves.
type OldProvider = (&'static str, &'static [(&'static str, &'static str)], usize);

const ALL_OLD_PROVIDERS: [OldProvider; 9] = [
    ("Provider-1", &[("PROVIDER_1_BASE_URL", "https://one.example/chat")], 1),
    ("Provider-2", &[("PROVIDER_2_BASE_URL", "https://two.example/v1"), ("PROVIDER_2_API_KEY", "k2")], 1),
    ("Provider-3", &[("PROVIDER_3_BASE_URL", "https://three.example/v1"), ("PROVIDER_3_API_KEY", "k3")], 4),
    ("Provider-4", &[("PROVIDER_4_BASE_URL", "https://four.example/v1"), ("PROVIDER_4_API_KEY", "k4")], 3),
    (
        "Provider-5",
        &[
            ("PROVIDER_5_BASE_URL", "https://five.example"),
            ("PROVIDER_5_API_KEY", "k5"),
            ("PROVIDER_5_IMG_BASE_URL", "https://image.five.example/prompt"),
        ],
        15,
    ),
    ("Provider-6", &[("PROVIDER_6_BASE_URL", "https://six.example/generate")], 3),
    ("Provider-7", &[("PROVIDER_7_BASE_URL", "https://seven.example/v1"), ("PROVIDER_7_API_KEY", "k7")], 17),
    ("Provider-8", &[("PROVIDER_8_BASE_URL", "https://eight.example/v1"), ("PROVIDER_8_API_KEY", "k8")], 56),
    ("Provider-9", &[("AZURE_ENDPOINT", "https://nine.example/"), ("AZURE_API_KEY", "k9")], 2),
];

#[test]
fn nothing_set_is_a_working_gateway_with_the_echo_model_alone() {
    let settings = settings(&[]);
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(settings.server.max_body_bytes, 10 << 20);
    assert_eq!(settings.server.pre_stop.as_secs(), 5);
    assert!(settings.database.is_sqlite() && settings.redis.is_none() && settings.admin.listen.is_none());
    assert_eq!(database(&settings), "sqlite ./.ai4free/ai4free.db");
    assert_eq!(settings.limits.default_plan, "standard");
    let standard = &settings.limits.plans["standard"];
    assert_eq!((standard.requests_per_minute, standard.image_requests_per_minute), (Some(10), Some(50)));
    assert_eq!(settings.limits.plans["unlimited"], ai4free_ports::limits::Limits::NONE);
    assert_eq!(available(&settings), BTreeSet::new());
    assert!(settings.catalogue.find("local/echo").unwrap().available);
    assert!(settings.catalogue.find("openai/gpt-4o").is_none());
    assert_eq!(settings.notes.len(), 1, "{:?}", settings.notes);
    assert!(settings.notes[0].contains("Provider-7") && settings.notes[0].contains("openai"));
}

#[test]
fn all_102_models_keep_their_limits_and_their_prices() {
    let settings = settings(&[]);
    let models: Vec<_> = settings.catalogue.models.iter().filter(|model| model.id.starts_with("Provider-")).collect();
    assert_eq!(models.len(), 102);
    assert!(models.iter().all(|model| model.price.is_some() && model.created == 1_700_000_000));
    for (id, input, output) in [
        ("Provider-1/DeepSeek-R1", 32768, 8192),
        ("Provider-2/gpt-4o", 8192, 4096),
        ("Provider-3/o3-mini", 16384, 4096),
        ("Provider-5/deepseek-r1", 32768, 8192),
        ("Provider-6/sana-6b", 1000, 1000),
        ("Provider-7/deepseek-v3", 32768, 8192),
        ("Provider-8/claude-3.7-sonnet:thinking", 4000, 4000),
        ("Provider-9/gpt-4.1", 32768, 4096),
        ("Provider-9/o4-mini", 32768, 4000),
    ] {
        let model = settings.catalogue.find(id).unwrap();
        assert_eq!((model.max_input_tokens, model.max_output_tokens), (Some(input), Some(output)), "{id}");
    }
    let limits = |kind| models.iter().filter(|m| m.kind == kind && m.max_output_tokens.is_some()).count();
    assert_eq!((limits(ModelKind::Chat), limits(ModelKind::Audio), limits(ModelKind::Image)), (95, 1, 3));
    let free = settings.catalogue.find("Provider-8/gpt-4o").unwrap();
    assert_eq!(free.price.as_ref().unwrap().input, 0);
    let flux = settings.catalogue.find("Provider-5/flux-pro").unwrap();
    assert_eq!(flux.price.as_ref().unwrap().per_image.to_string(), "0.008");
    assert_eq!(settings.catalogue.find("Provider-3/o3-mini").unwrap().price.as_ref().unwrap().output, 4_400_000);
    assert_eq!(
        settings.catalogue.find("Provider-8/quasar-alpha").unwrap().targets[0].upstream_model.as_ref(),
        "openrouter/quasar-alpha"
    );
    assert_eq!(settings.catalogue.default_image_model.as_deref(), Some("Provider-5/flux-pro"));
}

#[test]
fn old_names_of_renamed_models_still_mean_them() {
    let catalogue = settings(&[]).catalogue;
    assert_eq!(&*catalogue.find("Provider-5/gpt-4o-mini").unwrap().id, "Provider-5/gpt-4.1-nano");
    assert_eq!(&*catalogue.find("Provider-5/gpt-4o").unwrap().id, "Provider-5/gpt-4.1-mini");
}

#[test]
fn the_variables_of_each_old_provider_enable_exactly_its_models() {
    let mut everything = Vec::new();
    for (id, variables, count) in ALL_OLD_PROVIDERS {
        let settings = settings(variables);
        let models = available(&settings);
        assert_eq!(models.len(), count, "{id}: {models:?}");
        assert!(models.iter().all(|model| model.starts_with(&format!("{id}/"))), "{id}: {models:?}");
        assert_eq!(settings.providers.upstreams.len(), 1);
        everything.extend_from_slice(variables);
    }
    assert_eq!(available(&settings(&everything)).len(), 102);
}

#[test]
fn what_was_odd_about_the_old_providers_is_in_their_settings() {
    let everything: Vec<_> = ALL_OLD_PROVIDERS.iter().flat_map(|(_, variables, _)| variables.iter().copied()).collect();
    let settings = settings(&everything);
    let get = |number| provider(&settings, &format!("Provider-{number}")).clone();

    assert_eq!((get(1).endpoint, get(1).auth), (EndpointStyle::FullUrl, AuthStyle::None));
    assert!(get(1).quirks.stream_only);
    assert_eq!(get(1).quirks.content_type.as_deref(), Some("text/plain;charset=UTF-8"));
    assert_eq!(get(1).credentials.len(), 1);
    assert_eq!(
        (&*get(2).base_url, get(2).endpoint, secrets(&get(2))),
        ("https://two.example/v1", EndpointStyle::Paths, vec!["k2"])
    );
    assert!(matches!(get(3).images, Some(ImageStyle::MarkdownInChat { .. })));
    assert!(get(4).quirks.stream_only && get(4).quirks.content_type.is_none());
    assert_eq!(&*get(5).base_url, "https://five.example/openai");
    assert!(get(5).quirks.raw_reply && get(5).quirks.whole_audio);
    assert_eq!(get(5).images, Some(ImageStyle::GetUrl { url: "https://image.five.example/prompt".into() }));
    assert_eq!(get(6).images, Some(ImageStyle::JsonDataUrl { url: "https://six.example/generate".into() }));
    assert_eq!(get(6).auth, AuthStyle::None);
    assert_eq!(get(8).timeouts.total.as_secs(), 180);
    assert_eq!(get(9).endpoint, EndpointStyle::AzureDeployment { api_version: "2024-12-01-preview".into() });
    assert_eq!((&*get(9).base_url, get(9).auth), ("https://nine.example", AuthStyle::Header("api-key".into())));
    assert_eq!(get(9).quirks.output_cap_field, Some(OutputCapField::MaxCompletionTokens));
}

#[test]
fn provider_7_takes_many_keys_and_its_own_error_codes() {
    let base = ("PROVIDER_7_BASE_URL", "https://seven.example/v1");
    let many = settings(&[
        base,
        ("PROVIDER_7_API_KEYS", r#"["ka", "kb", "kc"]"#),
        ("PROVIDER_7_API_KEY", "unused"),
        ("PROVIDER_7_ERROR_CODES", r#"["*"]"#),
    ]);
    let seven = provider(&many, "Provider-7");
    assert_eq!(secrets(seven), ["ka", "kb", "kc"]);
    assert_eq!(&*seven.credentials[2].id, "Provider-7#3");
    assert_eq!(seven.quirks.rotate_on, RotateOn::AnyFailure);
    let one = settings(&[base, ("PROVIDER_7_API_KEY", "ka"), ("PROVIDER_7_ERROR_CODES", "[429, 500]")]);
    assert_eq!(provider(&one, "Provider-7").quirks.rotate_on, RotateOn::Statuses(vec![429, 500]));
    let wrong = errors(&sources(&[base, ("PROVIDER_7_API_KEY", "ka"), ("PROVIDER_7_ERROR_CODES", "[42]")]));
    assert!(
        wrong.to_string().contains("providers.Provider-7") && wrong.to_string().contains("PROVIDER_7_ERROR_CODES"),
        "{wrong}"
    );
    let none = settings(&[base, ("PROVIDER_7_API_KEYS", "[]")]);
    assert!(none.notes.iter().any(|note| note.contains("Provider-7 is disabled")), "{:?}", none.notes);
}

#[test]
fn a_vendors_usual_variable_switches_its_pattern_on() {
    let settings = settings(&[
        ("OPENAI_API_KEYS", "ka, kb"),
        ("OLLAMA_HOST", "gpu-box"),
        ("GROQ_API_KEY", "kg"),
        ("GROQ_BASE_URL", "https://proxy.example"),
    ]);
    let openai = provider(&settings, "openai");
    assert_eq!((&*openai.base_url, secrets(openai)), ("https://api.openai.com/v1", vec!["ka", "kb"]));
    assert_eq!(&*provider(&settings, "ollama").base_url, "http://gpu-box:11434/v1");
    assert!(provider(&settings, "ollama").credentials[0].secret.is_none());
    assert_eq!(&*provider(&settings, "groq").base_url, "https://proxy.example/openai/v1");
    assert!(settings.catalogue.find("gpt-4o").unwrap().available);
    assert!(!settings.catalogue.find("deepseek-chat").unwrap().available);
    let under_pattern = settings.catalogue.find("openai/gpt-4o").unwrap();
    assert_eq!((&*under_pattern.label, under_pattern.price.as_ref().unwrap().output), ("openai/*", 10_000_000));
    assert!(settings.catalogue.find("openai/brand-new").unwrap().price.is_none());
    assert!(settings.catalogue.find("deepseek/brand-new").is_none());
}

#[test]
fn sources_win_over_each_other_in_the_documented_order() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\ndrain_seconds = 11\nbody_timeout_seconds = 11\n";
    let (directory, mut sources) =
        with_file("c.toml", text, &[("AI4FREE__SERVER__DRAIN_SECONDS", "22"), ("PORT", "2")]);
    fs::write(
        directory.path().join(".env"),
        "AI4FREE__SERVER__DRAIN_SECONDS=33\nAI4FREE__SERVER__KEEP_ALIVE_SECONDS=33\n",
    )
    .unwrap();
    sources.dotenv = Some(directory.path().join(".env"));
    sources.on_terminal = true;
    let settings = load(&sources, &TwoZones).unwrap();
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:2");
    assert_eq!(settings.server.body_timeout.as_secs(), 11);
    assert_eq!(settings.server.drain.as_secs(), 22);
    assert_eq!(settings.server.keep_alive.as_secs(), 33);
    assert_eq!(settings.server.pre_stop.as_secs(), 0);
    sources.environment.insert("RUST_LOG".into(), "debug".into());
    sources.flags.log_level = Some("trace".to_owned());
    assert_eq!(load(&sources, &TwoZones).unwrap().telemetry.level, "trace");
}

#[test]
fn yaml_is_read_as_well() {
    let (_directory, sources) = with_file(
        "c.yaml",
        "plans:\n  gold:\n    requests_per_minute: 60\nlimits:\n  models:\n    gpt-4.1:\n      tokens_per_minute: 9\n  users:\n    default: {max_concurrent_requests: 3}\n",
        &[],
    );
    let settings = load(&sources, &TwoZones).unwrap();
    assert_eq!(settings.limits.plans["gold"].requests_per_minute, Some(60));
    assert_eq!(settings.limits.default_user.max_concurrent_requests, Some(3));
    assert_eq!(settings.catalogue.find("gpt-4.1").unwrap().limits.tokens_per_minute, Some(9));
}

#[test]
fn every_kind_of_mistake_is_reported_at_once_with_its_place() {
    let text = r#"
default_plan = "standrad"
[server]
listne = "127.0.0.1:1"
drain_seconds = "soon"
max_connections = 0
[htpp]
docs = true
[plans.gold]
requests_per_second = 1
[limits.models."gpt-4x"]
[limits.models."opnai/*"]
[providers.openai]
base_url = "http://169.254.169.254/"
[[providers.openai.credentials]]
secret = "env:MISSING_ONE"
[providers.mine]
dialect = "openai"
[telemetry]
log_format = "xml"
[catalogue]
models = ["/nowhere/models.json"]
"#;
    let (_directory, sources) = with_file(
        "broken.toml",
        text,
        &[
            ("AI4FREE__SERVER__DRAIN_SECOND", "1"),
            ("SYSTEM_SECRET", "too-short"),
            ("DATABASE_URL", "mysql://h/d"),
            ("REDIS_URL_FILE", "/nowhere/redis"),
            ("AI4FREE__ADMIN__LISTEN", "everywhere"),
        ],
    );
    let errors = errors(&sources).to_string();
    for expected in [
        "default_plan: there is no such plan; did you mean `standard`?",
        "server.listne: unknown setting; did you mean `listen`? (",
        "server.drain_seconds: expected a whole number from 0 to 86400 (",
        "server.max_connections: expected a whole number",
        "htpp: unknown setting; did you mean `http`?",
        "plans.gold.requests_per_second: unknown setting; did you mean `requests_per_minute`?",
        "limits.models.gpt-4x: there is no such model",
        "limits.models.\"opnai/*\": there is no such model in the catalogue; did you mean `openai/*`?",
        "providers.openai: base URL must not be a link-local address",
        "providers.openai.credentials[0].secret: refers to the variable MISSING_ONE, which is not set",
        "providers.mine: a new provider needs a base_url",
        "telemetry.log_format: expected one of `auto`, `json`, `text`",
        "can't be read: entity not found (/nowhere/models.json)",
        "server.drain_second: unknown setting; did you mean `drain_seconds`? (variable AI4FREE__SERVER__DRAIN_SECOND)",
        "keys.system_secret: is shorter than 32 bytes",
        "database.url: expected postgres://… or sqlite:PATH (variable DATABASE_URL)",
        "can't open /nowhere/redis: entity not found (variable REDIS_URL_FILE)",
        "admin.listen: expected an IP address and a port",
    ] {
        assert!(errors.contains(expected), "missing: {expected}\nin: {errors}");
    }
    assert!(errors.contains("broken.toml"));
}

#[test]
fn a_broken_file_is_named_with_its_line_and_not_quoted() {
    let (_directory, sources) = with_file("broken.toml", "[keys]\nsystem_secret = canary-canary\n", &[]);
    let error = errors(&sources).to_string();
    assert!(error.contains("line 2") && error.contains("broken.toml") && !error.contains("canary"), "{error}");
    let missing = Sources { file: Some("/nowhere/ai4free.toml".into()), ..Sources::default() };
    assert!(errors(&missing).to_string().contains("/nowhere/ai4free.toml"));
    let absent = Sources { default_file: Some("/nowhere/ai4free.toml".into()), ..Sources::default() };
    assert!(load(&absent, &TwoZones).is_ok());
}

#[test]
fn postgres_needs_a_system_secret_of_its_own() {
    let url = ("DATABASE_URL", "postgres://u:p@h/d");
    assert!(errors(&sources(&[url])).to_string().contains("keys.system_secret: must be set with Postgres"));
    let settings = settings(&[url, ("SYSTEM_SECRET", STRONG)]);
    assert_eq!(database(&settings), "postgres://u:p@h/d");
}

#[test]
fn variables_of_the_old_system_still_find_database_and_redis() {
    let parts = [
        ("SYSTEM_SECRET", STRONG),
        ("POSTGRES_HOST", "db"),
        ("POSTGRES_USER", "app"),
        ("POSTGRES_PASSWORD", "p@ss"),
        ("POSTGRES_DB", "llm"),
        ("REDIS_HOST", "eu1.upstash.io"),
        ("REDIS_PASSWORD", "r"),
        ("FLASK_DEBUG", "0"),
    ];
    let old = settings(&parts);
    assert_eq!(database(&old), "postgres://app:p%40ss@db:5432/llm");
    assert_eq!(old.redis.as_ref().unwrap().url.expose(), "rediss://:r@eu1.upstash.io:6379/0");
    assert!(old.notes.iter().any(|note| note.contains("ignored") && note.contains("FLASK_DEBUG")), "{:?}", old.notes);
    let neon = settings(&[("SYSTEM_SECRET", STRONG), ("NEON_POSTGRES_URI", "postgresql://u:p@neon/d?sslmode=require")]);
    assert_eq!(database(&neon), "postgres://u:p@neon/d?sslmode=require");
    let both: Vec<_> = parts.into_iter().chain([("DATABASE_URL", "sqlite:a.db")]).collect();
    assert!(settings(&both).database.is_sqlite());
}

#[test]
fn no_secret_is_in_debug_show_notes_or_errors() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = directory.path().join("key");
    fs::write(&mounted, "canary-mounted").unwrap();
    let text = format!(
        "[[providers.openai.credentials]]\nname = \"team\"\nsecret = \"file:{}\"\n[[providers.openai.credentials]]\nsecret = \"canary-literal\"\n",
        mounted.display()
    );
    let variables = [
        ("SYSTEM_SECRET", "canary-zL0b9cq2vH8sT1xW7nR4kP6mY3dF5gJ0"),
        ("AI4FREE__KEYS__PEPPER", "canary-pepper-H8sT1xW7nR4kP6mY3dF5gJ0"),
        ("AI4FREE__KEYS__PREVIOUS_PEPPERS", "canary-older-H8sT1xW7nR4kP6mY3dF5gJ0"),
        ("DATABASE_URL", "postgres://u:canary-password@h/d"),
        ("REDIS_URL", "redis://:canary-redis@h"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary-otlp"),
        ("PROVIDER_7_BASE_URL", "https://seven.example/v1"),
        ("PROVIDER_7_API_KEYS", r#"["canary-7a","canary-7b"]"#),
    ];
    let (_file, mut sources) = with_file("c.toml", &text, &variables);
    let settings = load(&sources, &TwoZones).unwrap();
    assert_eq!(secrets(provider(&settings, "openai")), ["canary-mounted", "canary-literal"]);
    let said = format!("{settings:?}{}{:?}", settings.show(), settings.notes);
    assert!(!said.contains("canary"), "{said}");
    assert!(said.contains("[redacted]") && said.contains("file:") && said.contains("Provider-7#2"));
    sources.environment.insert("AI4FREE__NOPE".into(), "canary".into());
    sources.environment.insert("REDIS_URL".into(), "canary".into());
    sources.environment.insert("AI4FREE__KEYS__PEPPER".into(), "canary".into());
    sources.environment.insert("OPENAI_BASE_URL".into(), "https://u:canary@h".into());
    let errors = errors(&sources);
    assert!(errors.problems().len() >= 3);
    assert!(!format!("{errors} {errors:?}").contains("canary"), "{errors}");
}

#[test]
fn every_setting_that_is_documented_is_read() {
    // With the examples taken at their word: what has no default is set, and placeholders are real names.
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.replace("models.\"ID\"", "models.\"openai/*\"") + "\n",
        _ => format!("{line}\n"),
    };
    let text: String = super::layers::DEFAULTS.lines().map(uncommented).collect();
    let (_directory, sources) = with_file("all.toml", &text, &[("TEAM_A_KEY", "k"), ("OPENAI_API_KEY", "k")]);
    let settings = load(&sources, &TwoZones).unwrap();
    assert_eq!(settings.limits.users["ID"].requests_per_minute, Some(600));
    assert_eq!(&*provider(&settings, "ID").credentials[0].id, "team-a");
    assert_eq!(settings.catalogue.find("openai/any").unwrap().limits.tokens_per_minute, Some(1_000_000));
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let shown = settings(&[("PORT", "7000")]).show().to_owned();
    let (_directory, sources) = with_file("shown.toml", &shown, &[]);
    assert_eq!(load(&sources, &TwoZones).unwrap().server.listen.port(), 7000);
}

#[test]
fn the_operators_files_are_merged_over_the_catalogue_by_id() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().join("models.json");
    let mine = r#"{"version":1,"price_version":7,"models":[
        {"id":"gpt-4o","price":{"input":1,"output":2}},
        {"id":"o1","price":null},
        {"id":"house/model","kind":"chat","targets":[{"provider":"house","model":"m"}]}]}"#;
    fs::write(&models, mine).unwrap();
    let providers = directory.path().join("providers.json");
    fs::write(
        &providers,
        r#"{"version":1,"providers":[{"id":"house","base_url":"http://10.0.0.7/v1","credentials_optional":true}]}"#,
    )
    .unwrap();
    let variables = [
        ("AI4FREE__CATALOGUE__MODELS", models.to_str().unwrap()),
        ("AI4FREE__CATALOGUE__PROVIDERS", providers.to_str().unwrap()),
        ("AI4FREE__PROVIDERS__PROVIDER_2__ENABLED", "false"),
    ];
    let settings = settings(&variables);
    let changed = settings.catalogue.find("gpt-4o").unwrap();
    let price = changed.price.as_ref().unwrap();
    assert_eq!((price.version, price.input, changed.max_output_tokens), (7, 1, Some(16384)));
    assert_eq!(settings.catalogue.find("gpt-4.1").unwrap().price.as_ref().unwrap().version, 1);
    assert!(settings.catalogue.find("o1").unwrap().price.is_none());
    let own = settings.catalogue.find("house/model").unwrap();
    assert!(own.available);
    assert_eq!(&*own.owned_by, "house");

    let dangling = r#"{"version":1,"default_image_model":"gpt-4o","models":[
        {"id":"a","kind":"chat","targets":[{"provider":"opnai","model":"m"}],"owned_by":"us","aliases":["gpt-4o"]},
        {"id":"b","kind":"chat","targets":[],"owned_by":"us"},
        {"id":"c","kind":"chat","target":[],"owned_by":"us"},
        {"id":"b","kind":"chat","targets":[],"owned_by":"us"}]}"#;
    fs::write(&models, dangling).unwrap();
    let errors = errors(&sources(&variables)).to_string();
    for expected in [
        "a: names an unknown provider `opnai`; did you mean `openai`?",
        "`gpt-4o` already means",
        "b: has no target",
        "c: unknown field `target`",
        "`b` is there twice",
        "default_image_model: is not an image model",
    ] {
        assert!(errors.contains(expected), "missing: {expected}\nin: {errors}");
    }
}

#[test]
fn a_new_provider_needs_no_more_than_a_table() {
    let text = "[providers.house]\nbase_url = \"http://10.0.0.7:8000/v1/\"\nserves = \"house/*\"\nidle_seconds = 9\n[[providers.house.credentials]]\nsecret = \"k\"\nlimits = { max_concurrent_requests = 2 }\n";
    let (_directory, sources) = with_file("c.toml", text, &[]);
    let settings = load(&sources, &TwoZones).unwrap();
    let house = provider(&settings, "house");
    assert_eq!((&*house.base_url, house.timeouts.idle.as_secs()), ("http://10.0.0.7:8000/v1", 9));
    assert_eq!(house.credentials[0].limits.max_concurrent_requests, Some(2));
    assert_eq!(&*settings.catalogue.find("house/llama").unwrap().targets[0].upstream_model, "llama");
}

#[test]
fn every_variable_is_in_the_example() {
    let example = include_str!("../../.env.example");
    let listed: BTreeSet<&str> =
        example.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let file: serde_json::Value = serde_json::from_str(include_str!("../../data/providers.json")).unwrap();
    let mut of_providers = Vec::new();
    collect_variables(&file, &mut of_providers);
    assert!(of_providers.len() > 50);
    let usual = USUAL_VARIABLES.iter().map(|(name, _)| *name).chain(["HOST", "PORT", "NEON_POSTGRES_URI"]);
    for name in of_providers.into_iter().chain(usual).chain(old_system::POSTGRES).chain(old_system::REDIS) {
        assert!(listed.contains(name), "{name} is not in .env.example");
    }
    for name in old_system::IGNORED {
        assert!(example.contains(name), "{name} is not in .env.example");
    }
    assert!(
        load(
            &Sources {
                dotenv: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example").into()),
                ..Sources::default()
            },
            &TwoZones
        )
        .is_ok()
    );
}

/// The texts of every member whose name ends with `_env`.
fn collect_variables<'a>(value: &'a serde_json::Value, names: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                match value.as_array().filter(|_| key.ends_with("_env")) {
                    Some(variables) => names.extend(variables.iter().filter_map(serde_json::Value::as_str)),
                    None => collect_variables(value, names),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_variables(item, names)),
        _ => {}
    }
}
