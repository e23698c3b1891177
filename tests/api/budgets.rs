//! Budgets: what is set is shown, and nothing is spent beyond it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    Gateway, Key, MockUpstream, Reply, Request, Response, chat, chunk, completion, delete, eventually,
    gateway::EVERYWHERE, get, patch, post, stores::allow_replicas, streamed_chat,
};

/// "Hello!" is 2 tokens in and out, and `local/echo` costs a dollar a million.
const COST: &str = "0.000004";

/// A request that can cost no more than it does.
fn echo(key: &Key) -> Request {
    let mut body = chat("local/echo");
    body["max_tokens"] = json!(2);
    post("/v1/chat/completions", &body).key(&key.text)
}

fn budget(amount: &str) -> Value {
    json!({"budget": {"amount_usd": amount, "window": "day"}})
}

fn path(key: &Key) -> String {
    format!("/v1/api-keys/{}", key.id)
}

fn assert_exhausted(response: &Response, scope: &str) {
    let error = response.error(429);
    assert_eq!((&error["code"], &error["type"]), (&json!("insufficient_quota"), &json!("insufficient_quota")));
    assert!(error["message"].as_str().unwrap().starts_with(&format!("The budget of this {scope} ")), "{error}");
    assert_eq!(response.header("x-should-retry"), Some("false"));
    assert_eq!(response.retry_after(), None);
}

/// A busy machine may miss the deadline of Redis: then a process has spent out of a grant of its own, and said so, and others
/// find less than the whole budget. More is never admitted.
fn is_disturbed(responses: &[Response], pays_for: usize) -> bool {
    let admitted: Vec<_> = responses.iter().filter(|response| response.status == 200).collect();
    let is_degraded = admitted.iter().any(|response| response.header("x-ai4free-degraded").is_some());
    assert!(admitted.len() == pays_for || is_degraded && admitted.len() < pays_for, "{}", admitted.len());
    is_degraded
}

/// Settled, reserved and remaining, once nothing runs: Redis hears of the end of a request shortly after its client.
async fn standing(gateway: &Gateway, key: &Key, requests: u64) -> [String; 3] {
    let usage = eventually("nothing reserved", || async {
        Some(gateway.usage_of(key, requests).await).filter(|usage| usage["budget"]["reserved"] == "0")
    })
    .await;
    ["settled", "reserved", "remaining"].map(|member| usage["budget"][member].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_budget_is_set_shown_changed_and_taken_away() {
    let gateway = Gateway::start().await;
    let created = json!({"budget": {"amount_usd": "5.00", "window": "week", "time_zone": "Europe/Berlin"}});
    let key = gateway.key_with(created).await;
    let shown = async || gateway.administer(get(&path(&key))).await.success()["budget"].clone();
    let change = async |budget: Value| {
        let changed = gateway.administer(patch(&path(&key), &json!({"budget": budget}))).await.success();
        assert_eq!(changed["budget"], shown().await);
        changed["budget"].clone()
    };
    let whole = |amount, window, zone| json!({"amount_usd": amount, "window": window, "time_zone": zone});
    assert_eq!(shown().await, whole("5", "week", "Europe/Berlin"));
    let list = gateway.administer(get("/v1/api-keys?limit=100")).await.success();
    let listed = list["data"].as_array().unwrap().iter().find(|listed| listed["id"] == *key.id).unwrap();
    assert_eq!(listed["budget"], shown().await);

    assert_eq!(change(json!({"amount_usd": 7})).await, whole("7", "week", "Europe/Berlin"));
    assert_eq!(change(json!({"window": "month"})).await, whole("7", "month", "Europe/Berlin"));
    assert_eq!(change(json!({"time_zone": null, "window": null})).await, whole("7", "total", "UTC"));
    gateway.administer(patch(&path(&key), &json!({"name": "other"}))).await.success();
    assert_eq!(shown().await, whole("7", "total", "UTC"), "what a patch does not name stays");
    assert_eq!(change(json!({"amount_usd": "0.000000000001"})).await["amount_usd"], "0.000000000001");
    assert_eq!(change(Value::Null).await, Value::Null);
    let error = gateway.administer(patch(&path(&key), &json!({"budget": {"window": "day"}}))).await.error(400);
    assert_eq!(error["param"], "budget.amount_usd", "a new budget has to have an amount");
    assert_eq!(change(json!({"amount_usd": "1"})).await, whole("1", "total", "UTC"));
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_budget_is_named() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let table = [
        (json!(5), "budget"),
        (json!("5"), "budget"),
        (json!({"amount_usd": 5.5}), "budget.amount_usd"),
        (json!({"amount_usd": -1}), "budget.amount_usd"),
        (json!({"amount_usd": "-1"}), "budget.amount_usd"),
        (json!({"amount_usd": "1e3"}), "budget.amount_usd"),
        (json!({"amount_usd": ""}), "budget.amount_usd"),
        (json!({"amount_usd": "0.0000000000001"}), "budget.amount_usd"),
        (json!({"amount_usd": "9000000000.01"}), "budget.amount_usd"),
        (json!({"amount_usd": null}), "budget.amount_usd"),
        (json!({"amount_usd": "1", "window": "year"}), "budget.window"),
        (json!({"amount_usd": "1", "time_zone": "Europe/Bonn"}), "budget.time_zone"),
        (json!({"amount_usd": "1", "time_zone": ""}), "budget.time_zone"),
        (json!({"amount_usd": "1", "amount": "1"}), "budget.amount"),
    ];
    for (budget, param) in table {
        let body = json!({"name": "x", "budget": budget});
        for request in [post("/v1/api-keys", &body), patch(&path(&key), &body)] {
            let error = gateway.administer(request).await.error(400);
            assert_eq!(error["param"], param, "{body}: {error}");
        }
    }
    let error =
        gateway.administer(post("/v1/api-keys", &json!({"name": "x", "budget": {"window": "day"}}))).await.error(400);
    assert_eq!(error["param"], "budget.amount_usd");
    assert_eq!(gateway.administer(get(&path(&key))).await.success()["budget"], Value::Null);
    gateway.stop().await;
}

#[tokio::test]
async fn a_budget_admits_exactly_what_it_pays_for_of_many_at_once() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(budget("0.00001")).await;
    let request = echo(&key);
    let responses = join_all((0..20).map(|_| gateway.send(&request))).await;
    if is_disturbed(&responses, 2) {
        return gateway.stop().await;
    }
    for refused in responses.iter().filter(|response| response.status != 200) {
        assert_exhausted(refused, "key");
    }
    assert_eq!(standing(&gateway, &key, 2).await, ["0.000008", "0", "0.000002"]);
    let parts =
        ["may cost $0.000004", "$0.000002 of $0.00001 remain", "settled $0.000008", "reserved $0,", "resets at "];
    // A process that goes by itself for a moment, because Redis was too slow, does not know what Redis has only reserved.
    eventually("a refusal that names everything", || async {
        let told = gateway.send(&request).await.error(429)["message"].as_str().unwrap().to_owned();
        parts.iter().all(|part| told.contains(part)).then_some(())
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn two_processes_spend_one_budget_together() {
    if !allow_replicas() {
        return;
    }
    let first = Gateway::start().await;
    let second = first.replica(Gateway::builder()).await;
    let key = first.key_with(budget("0.00004")).await;
    let request = echo(&key);
    let responses = join_all((0..40).map(|number| [&first, &second][number % 2].send(&request))).await;
    if !is_disturbed(&responses, 10) {
        assert_eq!(standing(&second, &key, 10).await, ["0.00004", "0", "0"]);
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn what_runs_is_reserved_and_what_ended_is_settled() {
    let upstream = MockUpstream::start().await;
    let plan = "[plans.closed]\nbudget = { amount_usd = \"1\", window = \"day\", on_redis_down = \"closed\" }";
    let gateway = Gateway::builder().openai(&upstream).toml(plan).start().await;
    let key = gateway.key_with(json!({"plan": "closed"})).await;
    let gate = crate::support::Gate::closed();
    upstream.answer(Reply::default().wait(&gate).followed_by(Reply::json(&completion("ok"))));
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(12);
    let request = post("/v1/chat/completions", &body).key(&key.text);
    let running = gateway.decided(&request);
    let observed = async {
        upstream.request(0).await;
        let reserved = eventually("a reservation", || async {
            let budget = gateway.usage(&key).await["budget"].clone();
            (budget["reserved"] != "0").then_some(budget)
        })
        .await;
        assert_eq!(reserved["settled"], "0");
        gate.open();
        let pico = |member: &str| picodollars(reserved[member].as_str().unwrap());
        assert_eq!(pico("remaining") + pico("reserved"), picodollars("1"));
    };
    let (response, ()) = futures_util::future::join(running, observed).await;
    response.success();
    // 9 tokens in at 2.50 and 12 out at 10 dollars a million.
    assert_eq!(standing(&gateway, &key, 1).await, ["0.0001425", "0", "0.9998575"]);
    gateway.stop().await;
}

fn picodollars(decimal: &str) -> u128 {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}{fraction:0<12}").parse().unwrap()
}

#[tokio::test]
async fn neither_rotation_nor_another_window_gives_money_back_within_the_window() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(budget(COST)).await;
    gateway.send(&echo(&key)).await.success();
    assert_exhausted(&gateway.send(&echo(&key)).await, "key");
    let rotated = gateway.administer(post(&format!("{}/rotate", path(&key)), &json!({}))).await.success();
    let rotated = Key::of(&rotated);
    assert_exhausted(&gateway.send(&echo(&rotated)).await, "key");
    assert_eq!(standing(&gateway, &rotated, 1).await, [COST, "0", "0"]);
    // What was spent today was also spent this month, and at all.
    for window in ["month", "total", "day"] {
        gateway.administer(patch(&path(&key), &json!({"budget": {"window": window}}))).await.success();
        let shown = eventually("the new window", || async {
            let budget = gateway.usage(&rotated).await["budget"].clone();
            (budget["window"] == window).then_some(budget)
        })
        .await;
        let refused = gateway.send(&echo(&rotated)).await;
        assert_exhausted(&refused, "key");
        let told = refused.error(429)["message"].as_str().unwrap().to_owned();
        assert_eq!(
            (shown["resets_at"].is_null(), told.contains(", never resets).")),
            (window == "total", window == "total")
        );
    }
    gateway.administer(delete(&path(&key))).await.success();
    eventually("the revocation", || async { (gateway.send(&echo(&rotated)).await.status == 401).then_some(()) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_budget_that_is_raised_or_lowered_holds_within_a_second() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(budget(COST)).await;
    gateway.send(&echo(&key)).await.success();
    assert_exhausted(&gateway.send(&echo(&key)).await, "key");
    let set = async |amount: &str| {
        let body = json!({"budget": {"amount_usd": amount}});
        gateway.administer(patch(&path(&key), &body)).await.success();
        Instant::now()
    };
    // And what a busy machine may add.
    let soon = |since: Instant| assert!(since.elapsed() < EVERYWHERE + Duration::from_secs(4), "{:?}", since.elapsed());
    let raised = set("0.00008").await;
    eventually("more", || async { (gateway.send(&echo(&key)).await.status == 200).then_some(()) }).await;
    soon(raised);
    for _ in 1..6 {
        gateway.send(&echo(&key)).await.success();
    }
    let lowered = set("0.00002").await;
    eventually("less", || async { (gateway.usage(&key).await["budget"]["limit"] == "0.00002").then_some(()) }).await;
    soon(lowered);
    assert_exhausted(&gateway.send(&echo(&key)).await, "key");
    assert_eq!(standing(&gateway, &key, 7).await, ["0.000028", "0", "0"], "more is spent than it is now");
    gateway.stop().await;
}

#[tokio::test]
async fn a_user_spends_one_budget_with_all_keys() {
    let toml = "[limits.users.eve]\nbudget = { amount_usd = \"0.000012\", window = \"month\", time_zone = \"America/New_York\", on_redis_down = \"closed\" }";
    let gateway = Gateway::builder().toml(toml).start().await;
    let mine = async |user: &str| gateway.key_with(json!({"user_id": user})).await;
    let (one, two, other) = (mine("eve").await, mine("eve").await, mine("ada").await);
    gateway.decided(&echo(&one)).await.success();
    gateway.decided(&echo(&two)).await.success();
    gateway.administer(delete(&path(&two))).await.success();
    gateway.decided(&echo(&one)).await.success();
    assert_exhausted(&gateway.decided(&echo(&one)).await, "user");
    assert_exhausted(&gateway.decided(&echo(&mine("eve").await)).await, "user");
    gateway.send(&echo(&other)).await.success();
    assert_eq!(gateway.usage(&one).await["budget"], Value::Null, "it is not the key's");
    gateway.stop().await;
}

#[tokio::test]
async fn the_gateway_a_model_and_a_plan_have_budgets_from_the_configuration() {
    for (toml, scope) in [
        ("[limits.gateway]\nbudget = { amount_usd = \"0.000008\", window = \"month\"", "gateway"),
        ("[limits.models.\"local/echo\"]\nbudget = { amount_usd = \"0.000008\", window = \"week\"", "model"),
        ("[plans.unlimited]\nbudget = { amount_usd = \"0.000008\", window = \"day\"", "key"),
    ] {
        let gateway = Gateway::builder().toml(&format!("{toml}, on_redis_down = \"closed\" }}")).start().await;
        let (one, two) = (gateway.key().await, gateway.key().await);
        gateway.decided(&echo(&one)).await.success();
        gateway.decided(&echo(&one)).await.success();
        assert_exhausted(&gateway.decided(&echo(&one)).await, scope);
        let is_each_keys = scope == "key";
        match is_each_keys {
            true => drop(gateway.decided(&echo(&two)).await.success()),
            false => assert_exhausted(&gateway.decided(&echo(&two)).await, scope),
        }
        assert_eq!(gateway.administer(get(&path(&one))).await.success()["budget"], Value::Null, "its own");
        let usage = gateway.usage_of(&one, 2).await;
        let expected = is_each_keys.then_some(json!("0.000008")).unwrap_or_default();
        assert_eq!(usage["budget"]["settled"], expected);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_report_says_when_a_budget_resets() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"budget": {"amount_usd": 1}})).await;
    let shown = gateway.usage(&key).await["budget"].clone();
    let expected = json!({
        "limit": "1", "settled": "0", "reserved": "0", "remaining": "1", "window": "total", "resets_at": null, "time_zone": "UTC"
    });
    assert_eq!(shown, expected);
    let key = gateway.key_with(budget("1")).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let resets_at = gateway.usage(&key).await["budget"]["resets_at"].as_u64().unwrap();
    assert!(resets_at % 86_400 == 0 && (before..=before + 86_401).contains(&resets_at), "{resets_at}");
    gateway.stop().await;
}

#[tokio::test]
async fn spending_outlives_the_process() {
    let mut gateway = Gateway::start().await;
    let key = gateway.key_with(budget("0.000012")).await;
    for _ in 0..2 {
        gateway.send(&echo(&key)).await.success();
        // Redis is told just after the answer; what it was not told stays reserved until another process finds it.
        eventually("the settlement", || async {
            (gateway.usage(&key).await["budget"]["reserved"] == "0").then_some(())
        })
        .await;
        gateway.crash();
        gateway = gateway.again().await;
    }
    gateway.send(&echo(&key)).await.success();
    assert_exhausted(&gateway.send(&echo(&key)).await, "key");
    assert_eq!(standing(&gateway, &key, 3).await, ["0.000012", "0", "0"]);
    // What the processes before have settled is settled, and not what they were granted.
    eventually("a refusal that knows it", || async {
        let told = gateway.send(&echo(&key)).await.error(429)["message"].as_str().unwrap().to_owned();
        told.contains("settled $0.000012, reserved $0, resets at ").then_some(())
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_under_a_budget_and_served_without_one() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let unpriced = chat("openai/a-model-that-nobody-knows");
    let key = gateway.key_with(budget("5")).await;
    let error = gateway.send(&post("/v1/chat/completions", &unpriced).key(&key.text)).await.error(400);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_unpriced"), &json!("model")));
    upstream.answer(Reply::json(&completion("ok")));
    let free = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &unpriced).key(&free.text)).await.success();
    assert_eq!(upstream.requests().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn the_command_line_sets_budgets_verifies_the_ledger_and_charges_again() {
    let gateway = Gateway::start().await;
    let line = "keys create --name cli --plan unlimited --budget 0.00001 --budget-window month --budget-time-zone Asia/Kolkata";
    let (code, created) = gateway.command(line);
    assert_eq!(code, Some(0), "{created}");
    assert_eq!(created["budget"], json!({"amount_usd": "0.00001", "window": "month", "time_zone": "Asia/Kolkata"}));
    let key = Key::of(&created);
    assert_eq!(gateway.command("keys create --name x --budget 1 --budget-time-zone Nowhere").0, Some(2));
    eventually("the key", || async { (gateway.send(&echo(&key)).await.status == 200).then_some(()) }).await;
    gateway.usage_of(&key, 1).await;

    let (code, verified) = gateway.command("ledger verify");
    assert_eq!((code, &verified["differences"]), (Some(0), &json!([])), "{verified}");
    assert_eq!(verified["events"], 1);

    let (code, by_key) = gateway.command("usage report --by key");
    assert_eq!(code, Some(0), "{by_key}");
    assert_eq!((&by_key["data"][0]["key"], &by_key["data"][0]["total_cost"]), (&json!(key.id), &json!(COST)));

    // Twice the price from now on, and for what was.
    let models = json!({"version": 1, "price_version": 7, "models": [{"id": "local/echo", "price": {"input": 2_000_000, "output": 2_000_000}}]});
    let file = gateway.home().join("models.json");
    std::fs::write(&file, models.to_string()).unwrap();
    let toml = gateway.home().join("ai4free.toml");
    std::fs::write(&toml, "[catalogue]\nmodels = [\"models.json\"]").unwrap();
    let (code, dry) = gateway.command("ledger reprice --model local/echo");
    assert_eq!((code, &dry["applied"], &dry["total"]["difference"]), (Some(0), &json!(false), &json!(COST)), "{dry}");
    assert_eq!(gateway.usage(&key).await["total_cost"], COST);
    let (code, applied) = gateway.command("ledger reprice --all --yes");
    assert_eq!((code, &applied["total"]["adjusted"]), (Some(0), &json!(1)), "{applied}");
    assert_eq!(gateway.command("ledger reprice --all --yes").1["total"]["adjusted"], 0);
    let usage = gateway.usage(&key).await;
    assert_eq!((&usage["total_requests"], &usage["total_cost"]), (&json!(1), &json!("0.000008")));
    assert_eq!((&usage["budget"]["settled"], &usage["budget"]["remaining"]), (&json!("0.000008"), &json!("0.000002")));
    let (code, verified) = gateway.command("ledger verify");
    assert_eq!((code, &verified["differences"], &verified["events"]), (Some(0), &json!([]), &json!(2)), "{verified}");
    assert_eq!(gateway.command("ledger reprice --model nothing").0, Some(2));
    gateway.stop().await;
}

/// Nothing of what it reserved is lost to the budget, and nothing is spent twice.
#[tokio::test]
async fn after_a_crash_with_requests_in_flight_the_rest_of_a_budget_can_be_spent_to_the_last_claim() {
    let upstream = MockUpstream::start().await;
    let mut gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"budget": {"amount_usd": "0.003", "window": "day"}})).await;
    upstream.answer(Reply::json(&completion("ok")));
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(12);
    let request = post("/v1/chat/completions", &body).key(&key.text);
    gateway.send(&request).await.success();
    // Of two nothing is received: they are charged all that was reserved. Two streams are charged what came before a checkpoint.
    let mut stream = streamed_chat("gpt-4o");
    stream["max_tokens"] = json!(70);
    let stream = post("/v1/chat/completions", &stream).key(&key.text);
    let begun = (0..64).fold(Reply::stream(), |reply, _| reply.piece(&chunk("a "))).piece(&chunk("end"));
    let (mut connections, mut streams) = (Vec::new(), Vec::new());
    for round in 1..=2 {
        upstream.answer(Reply::stream().then_hang());
        connections.push(request.start(gateway.address).await);
        eventually("the request", || async { (upstream.requests().len() == 2 * round).then_some(()) }).await;
        upstream.answer(begun.clone().then_hang());
        let mut exchange = gateway.open(&stream).await;
        exchange.until("end").await;
        streams.push(exchange);
    }
    gateway.crash();
    drop((connections, streams));

    gateway = gateway.again().await;
    let usage = gateway.usage_of(&key, 5).await;
    let spent = picodollars(usage["total_cost"].as_str().unwrap());
    let budget = eventually("the end of all reservations", || async {
        let budget = gateway.usage(&key).await["budget"].clone();
        (budget["reserved"] == "0" && picodollars(budget["settled"].as_str().unwrap()) == spent).then_some(budget)
    })
    .await;
    let remaining = picodollars(budget["remaining"].as_str().unwrap());
    assert_eq!(remaining + spent, picodollars("0.003"), "{budget}");

    let claims = usize::try_from(remaining / picodollars(COST)).unwrap();
    let cheap = echo(&key);
    let mut admitted = 0;
    loop {
        let responses = join_all((0..8).map(|_| gateway.send(&cheap))).await;
        let served = responses.iter().filter(|response| response.status == 200).count();
        admitted += served;
        if served == 0 {
            break;
        }
    }
    assert_eq!(admitted, claims);
    assert_exhausted(&gateway.send(&cheap).await, "key");
    gateway.stop().await;
}
