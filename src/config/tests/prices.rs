//! What models cost: the embedded figures, and files over them.

use std::fs;

use ai4free_ports::{
    catalogue::{ModelKind, OnDisconnect, Tier},
    money::PicoUsd,
    usage::TokenUsage,
};

use super::{TwoZones, errors, settings, sources, with_file};

/// With a file of models over the embedded one.
fn with_models(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("models.json");
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn a_vendors_model_has_a_price_under_its_pattern_and_is_not_listed() {
    let settings = settings(&[("OPENAI_API_KEY", "k")]);
    let model = settings.catalogue.find("openai/gpt-6-sol").unwrap();
    assert_eq!(
        (&*model.label, model.max_input_tokens, model.max_output_tokens),
        ("openai/*", Some(922_000), Some(128_000))
    );
    let price = model.price.as_deref().unwrap();
    assert_eq!((price.version, price.input, price.output), (1, 2_000_000, 10_000_000));
    assert_eq!((price.cache_read, price.cache_write), (Some(200_000), Some(2_500_000)));
    let long = TokenUsage { input: 272_001, output: 1, ..TokenUsage::default() };
    assert_eq!(price.cost(&long), Some(PicoUsd(272_001 * 4_000_000 + 15_000_000)));
    assert!(settings.catalogue.models.iter().all(|listed| listed.id != model.id));
    assert!(settings.catalogue.find("gpt-6-sol").is_none());
    let image = settings.catalogue.find("openai/gpt-image-2").unwrap();
    assert_eq!((image.kind, image.price.as_ref().unwrap().output), (ModelKind::Image, 30_000_000));
    let audio = settings.catalogue.find("openai/gpt-audio").unwrap();
    assert_eq!((audio.kind, audio.price.as_ref().unwrap().audio_out), (ModelKind::Audio, Some(64_000_000)));
}

#[test]
fn the_embedded_prices_are_of_vendors_models_and_plausible() {
    let snapshot = &settings(&[]).catalogue;
    assert!(snapshot.vendor_models.len() >= 150, "{}", snapshot.vendor_models.len());
    for (id, model) in &snapshot.vendor_models {
        let (vendor, name) = id.split_once('/').unwrap_or_else(|| panic!("{id} has no vendor"));
        let listed = snapshot.by_name.get(name).filter(|listed| &*listed.targets[0].provider == vendor);
        assert!(listed.is_none() && !snapshot.by_name.contains_key(id), "{id} is listed with a price of its own");
        let price = model.price.as_deref().unwrap_or_else(|| panic!("{id} has no price"));
        assert!(price.output >= price.input || price.output == 0, "{id} costs more in than out");
        assert!(price.output <= 1_000_000_000 && price.cache_read <= Some(price.input), "{id}: {price:?}");
        for tier in &price.tiers {
            assert!(tier.above >= 100_000 && tier.input > price.input && tier.output > price.output, "{id}: {tier:?}");
        }
        assert_eq!(model.kind == ModelKind::Image && price.output == 0, price.per_image.0 > 0, "{id}");
    }
}

#[test]
fn the_operators_prices_are_merged_over_the_catalogue_by_id() {
    let (_directory, file) = with_models(
        r#"{"version":1,"price_version":9,"prices":[
            {"id":"openai/gpt-6-sol","price":{"input":7,"output":8}},
            {"id":"openai/gpt-5.5","price":null},
            {"id":"openai/house","price":{"input":1,"output":2,"cache_read":0,"per_image":3,"tiers":[
                {"above":10,"output":4},{"above":20,"input":5,"cache_read":6}]},"max_output_tokens":4096}]}"#,
    );
    let settings = settings(&[("OPENAI_API_KEY", "k"), ("AI4FREE__CATALOGUE__MODELS", &file)]);
    let find = |name| settings.catalogue.find(name).unwrap();
    let changed = find("openai/gpt-6-sol");
    let price = changed.price.as_deref().unwrap();
    assert_eq!((price.version, price.input, price.tiers.len(), changed.max_output_tokens), (9, 7, 0, Some(128_000)));
    assert!(find("openai/gpt-5.5").price.is_none() && find("openai/gpt-5.5").max_input_tokens.is_some());
    assert_eq!(find("openai/gpt-5.4").price.as_ref().unwrap().version, 1);
    let own = find("openai/house").price.clone().unwrap();
    assert_eq!((own.per_image, own.cache_write), (PicoUsd(3_000_000), None));
    let tier = |above, input, output, cache_read| Tier { above, input, output, cache_read, ..Tier::default() };
    assert_eq!(own.tiers, [tier(10, 1, 4, Some(0)), tier(20, 5, 2, Some(6))]);
}

#[test]
fn a_price_that_is_not_a_whole_number_or_tiers_out_of_order_are_refused() {
    for (price, expected) in [
        (r#"{"input":1.5,"output":1}"#, "openai/x: invalid type: floating point `1.5`"),
        (r#"{"input":-1,"output":1}"#, "invalid value: integer `-1`"),
        (r#"{"input":1,"output":1,"tiers":[{"above":9},{"above":9}]}"#, "tiers must have ascending thresholds"),
        (r#"{"input":1,"output":1,"tiers":[{"above":9,"inptu":9}]}"#, "unknown field `inptu`"),
    ] {
        let (_directory, file) =
            with_models(&format!(r#"{{"version":1,"prices":[{{"id":"openai/x","price":{price}}}]}}"#));
        let found = errors(&sources(&[("AI4FREE__CATALOGUE__MODELS", &file)])).to_string();
        assert!(found.contains(expected), "missing: {expected}\nin: {found}");
    }
    let (_directory, file) = with_models(r#"{"version":1}"#);
    let found = errors(&sources(&[("AI4FREE__CATALOGUE__MODELS", &file)])).to_string();
    assert!(found.contains("expected an array `models` or `prices`"), "{found}");
}

#[test]
fn what_a_disconnect_does_is_said_by_model_and_by_provider() {
    let (_directory, file) = with_models(r#"{"version":1,"models":[{"id":"gpt-4o","on_disconnect":"drain"}]}"#);
    let toml = "[providers.openai]\non_disconnect = \"drain\"\n";
    let variables = [("OPENAI_API_KEY", "k"), ("DEEPSEEK_API_KEY", "k"), ("AI4FREE__CATALOGUE__MODELS", &*file)];
    let (_configuration, sources) = with_file("ai4free.toml", toml, &variables);
    let settings = super::load(&sources, &TwoZones).unwrap();
    let found = |name: &str| settings.catalogue.find(name).unwrap().on_disconnect;
    assert_eq!((found("gpt-4o"), found("openai/anything")), (OnDisconnect::Drain, OnDisconnect::Drain));
    assert_eq!((found("gpt-4.1"), found("deepseek/anything")), (OnDisconnect::Cancel, OnDisconnect::Cancel));
    let (_configuration, sources) = with_file("ai4free.toml", &toml.replace("drain", "wait"), &[]);
    let refused = errors(&sources).to_string();
    assert!(refused.contains("providers.openai.on_disconnect: expected one of `cancel`, `drain`"), "{refused}");
}
