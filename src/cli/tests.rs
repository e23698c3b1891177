use clap::{CommandFactory, Parser, error::ErrorKind};

use super::{
    arguments::{Arguments, Verb},
    db::DbVerb,
    output::Format,
};

fn parse(line: &str) -> Result<Arguments, ErrorKind> {
    Arguments::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
}

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn every_verb_is_understood() {
    for line in [
        "serve",
        "serve --host 0.0.0.0 --port 8080 --config a.toml --data-dir d",
        "db create",
        "db migrate",
        "db status",
        "db reset --yes",
        "db clean --yes",
        "db list-tables",
        "keys create --name demo --user-id u --plan standard --model openai/* --model gpt-4o --expires-at 2027-01-01",
        "keys create --name demo --requests-per-minute 1 --image-requests-per-minute 2 --tokens-per-minute 3",
        "keys create --name demo --max-concurrent-requests 4 --max-output-tokens 5",
        "keys list",
        "keys show abcdefghijkl",
        "keys revoke abcdefghijkl",
        "keys rotate abcdefghijkl --grace-seconds 0",
        "models list",
        "providers check",
        "keys create --name demo --budget 5.00 --budget-window day --budget-time-zone Europe/Berlin",
        "usage report --by user --output csv",
        "usage report --by provider",
        "usage report --by key",
        "ledger verify",
        "ledger verify --from 2026-01-01 --to 2026-02-01 --output json",
        "ledger reprice --model gpt-4o --model o3 --from 2026-01-01 --yes",
        "ledger reprice --all",
        "usage report --key abcdefghijkl --from 2026-01-01 --to 2026-02-01T00:00:00Z --by day",
        "openapi",
        "config check",
        "config show",
        "doctor",
        "healthcheck",
        "healthcheck http://127.0.0.1:8080",
        "completions bash",
        "completions zsh",
        "man",
        "create-db",
        "clean-db --yes",
        "reset-db --yes",
        "list-tables",
    ] {
        assert!(parse(&format!("ai4free {line}")).is_ok_and(|arguments| arguments.verb.is_some()), "{line}");
    }
}

#[test]
fn without_a_verb_it_serves_with_the_flags_of_serve() {
    let arguments = parse("ai4free --port 8080 --quiet").unwrap();
    assert!(arguments.verb.is_none() && arguments.global.quiet);
    assert_eq!(arguments.serve.port, Some(8080));
    let Some(Verb::Serve(after)) = parse("ai4free --port 1 serve --port 2").unwrap().verb else { panic!("no serve") };
    assert_eq!(after.port, Some(2));
}

#[test]
fn global_flags_stand_before_or_after_the_verb() {
    for line in ["ai4free -c a.yaml --output json keys list", "ai4free keys list --output json -c a.yaml"] {
        let global = parse(line).unwrap().global;
        assert_eq!((global.output, global.config), (Format::Json, Some("a.yaml".into())), "{line}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "keys create",
        "keys show",
        "keys create --name a --max-output-tokens 0",
        "keys create --name a --expires-at tomorrow",
        "keys create --name a --budget 1e3",
        "keys create --name a --budget -1",
        "keys create --name a --budget 5 --budget-window year",
        "keys create --name a --budget-window day",
        "usage report --by week",
        "ledger reprice",
        "ledger reprice --all --model gpt-4o",
        "serve --host nowhere",
        "serve --port 70000",
        "--quiet --log-level debug",
        "--output xml",
        "completions tcsh",
        "frobnicate",
    ] {
        assert!(parse(&format!("ai4free {line}")).is_err(), "{line}");
    }
    assert_eq!(parse("ai4free --help").err(), Some(ErrorKind::DisplayHelp));
    assert_eq!(parse("ai4free --version").err(), Some(ErrorKind::DisplayVersion));
}

#[test]
fn old_names_are_understood_and_not_shown() {
    let verb = |line: &str| match parse(line).unwrap().verb {
        Some(Verb::OldDb(verb)) => DbVerb::from(verb),
        other => panic!("{other:?}"),
    };
    assert!(matches!(verb("ai4free create-db"), DbVerb::Create));
    assert!(matches!(verb("ai4free clean-db"), DbVerb::Clean { yes: false }));
    assert!(matches!(verb("ai4free reset-db --yes"), DbVerb::Reset { yes: true }));
    assert!(matches!(verb("ai4free list-tables"), DbVerb::ListTables));
    let help = Arguments::command().render_long_help().to_string();
    assert!(!help.contains("create-db") && help.contains("keys"));
}

#[test]
fn no_secret_is_an_argument() {
    fn walk(command: &clap::Command, seen: &mut Vec<String>) {
        seen.extend(command.get_arguments().map(|argument| argument.get_id().to_string()));
        command.get_subcommands().for_each(|command| walk(command, seen));
    }
    let mut seen = Vec::new();
    walk(&Arguments::command(), &mut seen);
    for word in ["secret", "password", "pepper", "token", "url", "api_key"] {
        let suspicious: Vec<&String> = seen.iter().filter(|id| id.contains(word)).collect();
        let harmless = ["tokens_per_minute", "max_output_tokens", "url"];
        assert!(suspicious.iter().all(|id| harmless.contains(&id.as_str())), "{suspicious:?}");
    }
}
