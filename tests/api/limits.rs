//! Limits are exact, whoever counts them.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    Gate, Gateway, Key, MockUpstream, Reply, Request, Response, chat, completion, eventually, get, post,
    stores::allow_replicas, streamed_chat,
};

fn echo(key: &Key) -> Request {
    post("/v1/chat/completions", &chat("local/echo")).key(&key.text)
}

fn count(responses: &[Response], status: u16) -> usize {
    responses.iter().filter(|response| response.status == status).count()
}

/// Closed, because a machine that is busy with other tests may be too slow for Redis to answer in time.
const TEN: &str = "[plans.ten]\nrequests_per_minute = 10\non_redis_down = \"closed\"\n";

#[tokio::test]
async fn ten_a_minute_admits_exactly_ten_of_forty_at_once() {
    let gateway = Gateway::builder().toml(TEN).start().await;
    let key = gateway.key_with(json!({"plan": "ten"})).await;
    let request = echo(&key);
    let responses = join_all((0..40).map(|_| gateway.decided(&request))).await;
    assert_eq!((count(&responses, 200), count(&responses, 429)), (10, 30));
    for refused in responses.iter().filter(|response| response.status == 429) {
        let error = refused.error(429);
        assert_eq!((&error["code"], &error["type"]), (&json!("rate_limit_exceeded"), &json!("requests")));
        // The window is kept in whole seconds, rounded against the caller.
        assert!((1..=61).contains(&refused.retry_after().unwrap().as_secs()));
        assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("10"));
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        assert_eq!(refused.header("x-ai4free-limit-scope"), Some("key"));
    }
    assert_eq!(gateway.usage_of(&key, 10).await["successful_requests"], 10, "what is refused is not charged");
    gateway.stop().await;
}

#[tokio::test]
async fn two_processes_admit_exactly_ten_together() {
    if !allow_replicas() {
        return;
    }
    let first = Gateway::builder().toml(TEN).start().await;
    let second = first.replica(Gateway::builder().toml(TEN)).await;
    let key = first.key_with(json!({"plan": "ten"})).await;
    let request = echo(&key);
    let responses = join_all((0..40).map(|number| [&first, &second][number % 2].decided(&request))).await;
    assert_eq!((count(&responses, 200), count(&responses, 429)), (10, 30));
    let usage = first.usage_of(&key, 10).await;
    assert_eq!(usage["successful_requests"], 10, "both processes charge into one ledger");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn an_answer_says_what_is_left() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"limits": {"requests_per_minute": 3, "tokens_per_minute": 100_000}})).await;
    for left in ["2", "1", "0"] {
        let response = gateway.send(&echo(&key)).await;
        response.success();
        assert_eq!(response.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(response.header("x-ratelimit-remaining-requests"), Some(left));
        assert_eq!(response.header("x-ratelimit-limit-tokens"), Some("100000"));
        let reset = response.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.ends_with('s'), "a Go duration: {reset}");
        assert!(response.header("x-ratelimit-reset-tokens").is_some());
    }
    gateway.send(&echo(&key)).await.error(429);
    let streamed = gateway.key_with(json!({"limits": {"requests_per_minute": 3}})).await;
    let response = gateway.send(&post("/v1/chat/completions", &streamed_chat("local/echo")).key(&streamed.text)).await;
    assert_eq!(response.header("x-ratelimit-remaining-requests"), Some("2"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_refusal_names_the_limit_and_what_of_it_is_settled_reserved_and_left() {
    let upstream = MockUpstream::start().await;
    let plan = "[plans.told]\ntokens_per_minute = 2000\nmax_concurrent_requests = 1\non_redis_down = \"closed\"\n";
    let gateway = Gateway::builder().openai(&upstream).toml(plan).start().await;
    let key = gateway.key_with(json!({"plan": "told"})).await;
    let request = |cap: u32| {
        let mut body = chat("gpt-4o");
        body["max_tokens"] = json!(cap);
        post("/v1/chat/completions", &body).key(&key.text)
    };
    upstream.answer(Reply::json(&completion("ok")));
    gateway.decided(&request(100)).await.success();
    let gate = Gate::closed();
    upstream.answer(Reply::default().wait(&gate).followed_by(Reply::json(&completion("ok"))));
    let (large, small) = (request(300), request(10));
    // Both limits refuse the first, and tokens are what it has to wait for the longest; only concurrency refuses the second.
    let observed = async {
        let told = async |request: &Request, wanted: &str| {
            let refusal = || async {
                let response = gateway.decided(request).await;
                let message = response.error(429)["message"].as_str().unwrap().to_owned();
                message.contains(wanted).then_some((response, message))
            };
            eventually(wanted, refusal).await
        };
        upstream.request(1).await;
        let (_, message) = told(&small, "settled 0, reserved 1,").await;
        let concurrency = "Rate limit reached for the key in concurrency: limit 1 concurrent requests, settled 0, reserved 1, \
                           remaining 0, requested 1, resets as requests end. Try again in 1s.";
        assert_eq!(message, concurrency);
        // What the first used, by its provider's count.
        let (response, message) = told(&request(1800), "settled 21,").await;
        assert!(message.starts_with("Rate limit reached for the key in tokens: limit 2000 tokens per 60 seconds, "));
        let number = |name: &str| {
            let rest = message.split(&format!(", {name} ")).nth(1).unwrap();
            rest.split([',', '.']).next().unwrap().parse::<u64>().unwrap()
        };
        assert!((300..600).contains(&number("reserved")), "{message}");
        assert_eq!(21 + number("reserved") + number("remaining"), 2000, "{message}");
        assert!(number("requested") > number("remaining"), "{message}");
        let reset = response.header("x-ratelimit-reset-tokens").unwrap();
        assert!(message.contains(&format!(", resets in {reset}. Try again in ")), "{message}");
        gate.open();
    };
    // The place of the first is free shortly after its answer.
    let admitted = eventually("the place", || async { Some(gateway.send(&large).await).filter(|it| it.status == 200) });
    futures_util::future::join(admitted, observed).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_refused_request_claims_nothing() {
    let gateway = Gateway::builder().set("AI4FREE__SERVER__MAX_BODY_BYTES", "4096").start().await;
    let key = gateway.key_with(json!({"limits": {"requests_per_minute": 1}, "models": ["local/*", "nothing"]})).await;
    let table = [
        (echo(&key).header("authorization", "Bearer x"), 401),
        (echo(&key).body("{"), 400),
        (post("/v1/chat/completions", &json!({"model": "local/echo"})).key(&key.text), 400),
        (post("/v1/chat/completions", &chat("nothing")).key(&key.text), 404),
        (post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text), 403),
        (get("/v1/nowhere").key(&key.text), 404),
        (echo(&key).body("x".repeat(5000)), 413),
        (echo(&key).header("content-type", "text/plain"), 415),
        (echo(&key).method("PUT"), 405),
    ];
    for (request, status) in table {
        let response = gateway.send(&request).await;
        response.error(status);
    }
    let admitted = gateway.send(&echo(&key)).await;
    admitted.success();
    assert_eq!(admitted.header("x-ratelimit-remaining-requests"), Some("0"));
    gateway.send(&echo(&key)).await.error(429);
    gateway.usage_of(&key, 1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_that_the_provider_failed_counts() {
    let upstream = MockUpstream::always(Reply::error(500, &json!({}))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"limits": {"requests_per_minute": 1}})).await;
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    gateway.send(&request).await.error(502);
    gateway.send(&request).await.error(429);
    gateway.stop().await;
}

#[tokio::test]
async fn the_old_systems_limits_are_the_standard_plan() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"plan": "standard"})).await;
    let request = echo(&key);
    let responses = join_all((0..12).map(|_| gateway.send(&request))).await;
    assert_eq!((count(&responses, 200), count(&responses, 429)), (10, 2));
    gateway.stop().await;
}

#[tokio::test]
async fn every_scope_limits_and_says_its_name() {
    let configuration = "[limits.gateway]\nrequests_per_minute = 6\n[limits.users.default]\nrequests_per_minute = 2\n\
                         [limits.users.\"vip\"]\nrequests_per_minute = 100\n\
                         [limits.models.\"local/echo\"]\nrequests_per_minute = 5\n";
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::builder().openai(&upstream).toml(configuration).start().await;
    let user = json!({"user_id": "ada"});
    let (one, other) = (gateway.key_with(user.clone()).await, gateway.key_with(user).await);
    let vip = gateway.key_with(json!({"user_id": "vip"})).await;
    let refused_by = async |request: Request| {
        let response = gateway.send(&request).await;
        response.error(429);
        response.header("x-ai4free-limit-scope").unwrap().to_owned()
    };
    gateway.send(&echo(&one)).await.success();
    gateway.send(&echo(&other)).await.success();
    assert_eq!(refused_by(echo(&one)).await, "user", "both keys of an owner together");
    for _ in 0..3 {
        gateway.send(&echo(&vip)).await.success();
    }
    assert_eq!(refused_by(echo(&vip)).await, "model", "everybody together");
    let pattern = |name: &str| post("/v1/chat/completions", &chat(name)).key(&vip.text);
    gateway.send(&pattern("openai/a")).await.success();
    assert_eq!(refused_by(pattern("openai/b")).await, "gateway", "after the sixth of six");
    gateway.stop().await;
}

#[tokio::test]
async fn a_pattern_is_limited_as_one_model() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let configuration = "[limits.models.\"openai/*\"]\nrequests_per_minute = 1\n";
    let gateway = Gateway::builder().openai(&upstream).toml(configuration).start().await;
    let key = gateway.key().await;
    let ask = |name: &str| post("/v1/chat/completions", &chat(name)).key(&key.text);
    gateway.send(&ask("openai/a")).await.success();
    gateway.send(&ask("openai/b")).await.error(429);
    gateway.stop().await;
}

#[tokio::test]
async fn tokens_are_reserved_at_their_bound_and_settled_to_what_was_used() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"limits": {"tokens_per_minute": 1000}})).await;
    let mut body = chat("gpt-4o");
    body["max_tokens"] = json!(500);
    // 21 tokens each in the end: at the bound of about 600 only one would fit in a minute. With Redis, a settlement may reach
    // it shortly after its answer.
    let request = post("/v1/chat/completions", &body).key(&key.text);
    for _ in 0..3 {
        let settled = || async { Some(gateway.send(&request).await).filter(|response| response.status != 429) };
        let response = eventually("the refund of the request before", settled).await;
        response.success();
        assert_eq!(response.header("x-ratelimit-limit-tokens"), Some("1000"));
    }
    body["max_tokens"] = json!(2000);
    let never = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await;
    assert_eq!(never.error(400)["code"], "request_exceeds_limit");
    assert_eq!(never.header("retry-after"), None);
    gateway.stop().await;
}

#[tokio::test]
async fn as_many_requests_run_at_once_as_are_allowed() {
    let gate = Gate::closed();
    let upstream = MockUpstream::start().await;
    let gated = Reply::default().wait(&gate);
    let answer = Reply::json(&completion("ok"));
    upstream.answer(gated.followed_by(answer.clone()));
    upstream.otherwise(move |_| answer.clone());
    let plan = "[plans.one]\nmax_concurrent_requests = 1\non_redis_down = \"closed\"\n";
    let gateway = Gateway::builder().openai(&upstream).toml(plan).start().await;
    let key = gateway.key_with(json!({"plan": "one"})).await;
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    let observed = async {
        upstream.request(0).await;
        assert_eq!(gateway.decided(&request).await.error(429)["code"], "rate_limit_exceeded");
        gate.open();
    };
    let (first, ()) = futures_util::future::join(gateway.decided(&request), observed).await;
    first.success();
    eventually("the place", || async { (gateway.send(&request).await.status == 200).then_some(()) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_gives_its_place_back() {
    let upstream = MockUpstream::start().await;
    upstream.answer(Reply::hang());
    upstream.otherwise(|_| Reply::json(&completion("ok")));
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"limits": {"max_concurrent_requests": 1}})).await;
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    let first = request.start(gateway.address).await;
    upstream.request(0).await;
    gateway.send(&request).await.error(429);
    first.close();
    eventually("the place", || async { (gateway.send(&request).await.status == 200).then_some(()) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_models_own_limits_on_tokens_are_checked_before_anything_is_claimed() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway =
        Gateway::builder().set("PROVIDER_2_BASE_URL", &upstream.url()).set("PROVIDER_2_API_KEY", "two").start().await;
    let key = gateway.key_with(json!({"limits": {"requests_per_minute": 1}})).await;
    let mut body = chat("Provider-2/gpt-4o");
    body["max_tokens"] = json!(4097);
    let error = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.error(400);
    assert_eq!(
        error["message"],
        "Requested max output tokens (4097) exceed the model's allowed limit of 4096 per request."
    );
    let long = json!({"model": "Provider-2/gpt-4o", "messages": [{"role": "user", "content": "hello ".repeat(9000)}]});
    let error = gateway.send(&post("/v1/chat/completions", &long).key(&key.text)).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(upstream.request_count(), 0);
    // As many bytes as are too many tokens, and few tokens: it is counted, not guessed.
    let fits = json!({"model": "Provider-2/gpt-4o", "messages": [{"role": "user", "content": "hello ".repeat(3000)}]});
    gateway.send(&post("/v1/chat/completions", &fits).key(&key.text)).await.success();
    gateway.stop().await;
}
