//! The life of an API key.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{
    Gateway, Key, Request, SYSTEM_SECRET, chat, delete, eventually, gateway::EVERYWHERE, get, patch, post,
    stores::allow_replicas,
};

fn echo(key: &str) -> Request {
    post("/v1/chat/completions", &chat("local/echo")).key(key)
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[tokio::test]
async fn a_key_is_created_listed_shown_changed_and_revoked() {
    let gateway = Gateway::start().await;
    let members = json!({
        "name": "Ada", "user_id": "ada-1", "plan": "standard", "models": ["local/*"], "max_output_tokens": 50,
        "limits": {"requests_per_minute": 3}, "expires_at": now() + 3600
    });
    let created = gateway.administer(post("/v1/api-keys", &members)).await;
    assert_eq!(created.status, 201);
    let created = created.json();
    let key = Key::of(&created);
    let is_well_formed = key.text.len() == 68
        && key.text.strip_prefix("sk-a4f-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert!(is_well_formed, "{}", key.text);
    assert_eq!(key.text[7..19], key.id);
    for (member, value) in members.as_object().unwrap() {
        match member.as_str() {
            "limits" => assert_eq!(created["limits"]["requests_per_minute"], 3),
            member => assert_eq!(&created[member], value, "{member}"),
        }
    }
    assert_eq!((&created["object"], &created["state"]), (&json!("api_key"), &json!("active")));
    assert_eq!(created["last4"], key.text[64..]);
    assert!(key.text.starts_with(created["prefix"].as_str().unwrap()));

    let mut shown = created.clone();
    shown.as_object_mut().unwrap().remove("api_key");
    let path = format!("/v1/api-keys/{}", key.id);
    assert_eq!(gateway.administer(get(&path)).await.success(), shown, "the text is shown once");
    let list = gateway.administer(get("/v1/api-keys?limit=100")).await.success();
    assert!(list["data"].as_array().unwrap().contains(&shown), "{list}");

    let changed = gateway
        .administer(patch(&path, &json!({"name": "Ada L.", "models": null, "limits": {"requests_per_minute": null}})))
        .await
        .success();
    assert_eq!((&changed["name"], &changed["user_id"]), (&json!("Ada L."), &json!("ada-1")));
    assert_eq!((&changed["models"], &changed["limits"]["requests_per_minute"]), (&json!([]), &Value::Null));
    for required in ["name", "plan"] {
        let cleared = gateway.administer(patch(&path, &json!({required: null, "user_id": "eve"}))).await;
        assert_eq!(cleared.error(400)["param"], required);
    }
    assert_eq!(gateway.administer(get(&path)).await.success()["user_id"], "ada-1", "a refused patch changes nothing");

    gateway.send(&echo(&key.text)).await.success();
    for _ in 0..2 {
        assert_eq!(gateway.administer(delete(&path)).await.success()["state"], "revoked");
    }
    eventually("the revocation", || async { (gateway.send(&echo(&key.text)).await.status == 401).then_some(()) }).await;
    assert_eq!(gateway.send(&echo(&key.text)).await.error(401)["code"], "invalid_api_key");
    gateway.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_without_gaps_or_repeats() {
    let gateway = Gateway::start().await;
    let mut created = Vec::new();
    for _ in 0..7 {
        created.push(gateway.key().await.id);
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = gateway.administer(get(&format!("/v1/api-keys?limit=3{after}"))).await.success();
        let ids: Vec<String> =
            page["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
        assert!(ids.len() <= 3);
        seen.extend(ids);
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    created.sort();
    let mut of_ours: Vec<String> = seen.iter().filter(|id| created.contains(id)).cloned().collect();
    of_ours.sort();
    assert_eq!(of_ours, created);
    assert_eq!(gateway.administer(get("/v1/api-keys?after=nonsense!")).await.error(400)["param"], "after");
    assert_eq!(gateway.administer(get("/v1/api-keys?limit=x")).await.error(400)["param"], "limit");
    gateway.stop().await;
}

#[tokio::test]
async fn key_administration_wants_the_system_secret_and_a_key_is_none() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let path = format!("/v1/api-keys/{}", key.id);
    let requests = [
        get("/v1/api-keys"),
        post("/v1/api-keys", &json!({"name": "x"})),
        get(&path),
        patch(&path, &json!({"name": "x"})),
        delete(&path),
        post(&format!("{path}/rotate"), &json!({})),
    ];
    for request in &requests {
        assert_eq!(gateway.send(&request.clone().key(&key.text)).await.error(401)["code"], "invalid_system_secret");
    }
    let wrong = gateway.send(&requests[0].clone().header("x-system-secret", "wrong")).await;
    wrong.error(401);
    // And the other way round.
    gateway.send(&echo(SYSTEM_SECRET)).await.error(401);
    gateway.send(&echo(&key.text)).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn guessing_the_system_secret_is_slowed_down() {
    let gateway = Gateway::start().await;
    let guess = get("/v1/api-keys").header("x-system-secret", "guess");
    for _ in 0..10 {
        gateway.send(&guess).await.error(401);
    }
    let slowed = gateway.send(&guess).await;
    slowed.error(429);
    assert!((1..=60).contains(&slowed.retry_after().unwrap().as_secs()));
    gateway.stop().await;
}

#[tokio::test]
async fn the_old_form_has_the_secret_in_the_body() {
    let gateway = Gateway::start().await;
    let mut body = json!({
        "secret": SYSTEM_SECRET, "user_id": 12345, "telegram_user_link": "https://t.me/ada", "email": "ada@example.com",
        "first_name": "Ada", "last_name": "L", "username": null, "partial_api_key": "ddc", "id": 7
    });
    let created = gateway.send(&post("/v1/api-keys", &body)).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.json()["user_id"], "12345");
    gateway.send(&echo(&Key::of(&created.json()).text)).await.success();
    body["secret"] = json!("wrong");
    assert_eq!(gateway.send(&post("/v1/api-keys", &body)).await.error(401)["code"], "invalid_system_secret");
    body.as_object_mut().unwrap().remove("secret");
    gateway.send(&post("/v1/api-keys", &body)).await.error(401);
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_new_key_is_named() {
    let gateway = Gateway::start().await;
    let table = [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a\u{7}"}), "name"),
        (json!({"name": "x".repeat(300)}), "name"),
        (json!({"name": 1}), "name"),
        (json!({"name": "x", "nmae": "y"}), "nmae"),
        (json!({"name": "x", "plan": "gold"}), "plan"),
        (json!({"name": "x", "models": ["a*b"]}), "models"),
        (json!({"name": "x", "models": "a"}), "models"),
        (json!({"name": "x", "expires_at": 1000}), "expires_at"),
        (json!({"name": "x", "max_output_tokens": 0}), "max_output_tokens"),
        (json!({"name": "x", "limits": {"requests_per_minute": -1}}), "limits.requests_per_minute"),
        (json!({"name": "x", "limits": {"requests": 1}}), "limits.requests"),
        (json!({"name": "x", "user_id": ["a"]}), "user_id"),
    ];
    for (body, param) in table {
        let error = gateway.administer(post("/v1/api-keys", &body)).await.error(400);
        assert_eq!(error["param"], param, "{body}: {error}");
    }
    for path in ["/v1/api-keys/unknown", "/v1/api-keys/000000000000", "/v1/api-keys/%00"] {
        gateway.administer(get(path)).await.error(404);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_for_the_grace_and_then_one() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let rotate = |grace: u64| post(&format!("/v1/api-keys/{}/rotate", key.id), &json!({"grace_seconds": grace}));
    let second = Key::of(&gateway.administer(rotate(3600)).await.success());
    assert_eq!(second.id, key.id);
    assert_ne!(second.text, key.text);
    for text in [&key.text, &second.text] {
        gateway.send(&echo(text)).await.success();
    }
    let third = Key::of(&gateway.administer(rotate(0)).await.success());
    for old in [&key.text, &second.text] {
        eventually("the end of an old secret", || async {
            (gateway.send(&echo(old)).await.status == 401).then_some(())
        })
        .await;
    }
    gateway.send(&echo(&third.text)).await.success();
    assert_eq!(gateway.administer(rotate(365 * 24 * 3600)).await.error(400)["param"], "grace_seconds");
    let requests = gateway.usage_of(&third, 3).await;
    assert_eq!(requests["total_requests"], 3, "usage goes on under the same id");
    gateway.stop().await;
}

#[tokio::test]
async fn the_grace_of_a_rotated_secret_ends_by_itself() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let rotate = post(&format!("/v1/api-keys/{}/rotate", key.id), &json!({"grace_seconds": 1}));
    let fresh = Key::of(&gateway.administer(rotate).await.success());
    gateway.send(&echo(&key.text)).await.success();
    eventually("the end of the grace", || async { (gateway.send(&echo(&key.text)).await.status == 401).then_some(()) })
        .await;
    gateway.send(&echo(&fresh.text)).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn an_expired_key_is_refused() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"expires_at": now() + 2})).await;
    gateway.send(&echo(&key.text)).await.success();
    let expired = eventually("the expiry", || async {
        let response = gateway.send(&echo(&key.text)).await;
        (response.status != 200).then_some(response)
    })
    .await;
    assert_eq!(expired.error(401)["code"], "invalid_api_key");
    let unknown = gateway.send(&echo(&format!("sk-a4f-{}", "0".repeat(61)))).await;
    assert_eq!(expired.text(), unknown.text(), "who finds a key does not learn what became of it");
    let shown = gateway.administer(get(&format!("/v1/api-keys/{}", key.id))).await.success();
    assert_eq!(shown["state"], "expired");
    gateway.stop().await;
}

#[tokio::test]
async fn an_allow_list_is_enforced_and_does_not_deny_that_models_exist() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"models": ["Provider-1/*"]})).await;
    let error = gateway.send(&echo(&key.text)).await.error(403);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_allowed"), &json!("model")));
    let unknown = gateway.send(&post("/v1/chat/completions", &chat("nothing")).key(&key.text)).await;
    assert_eq!(unknown.error(404)["code"], "model_not_found");
    gateway.stop().await;
}

#[tokio::test]
async fn malformed_keys_are_refused_alike() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let mut wrong_check = key.text.clone();
    wrong_check.replace_range(67.., if key.text.ends_with('0') { "1" } else { "0" });
    let unknown = "sk-a4f-0000000000000000000000000000000000000000000000000000000000000";
    for token in ["", "x", "sk-a4f-", unknown, &wrong_check, &"k".repeat(5000), "sk-a4f-ключ"] {
        let response = gateway.send(&echo(token)).await;
        let error = response.error(401);
        assert_eq!(error["code"], "invalid_api_key", "{token}");
        assert!(!response.text().contains(&key.text[20..40]));
    }
    for scheme in ["Basic abc", "Bearer", "bearer", "Token x"] {
        let request = post("/v1/chat/completions", &chat("local/echo")).header("authorization", scheme);
        gateway.send(&request).await.error(401);
    }
    let lower_case =
        post("/v1/chat/completions", &chat("local/echo")).header("authorization", &format!("bearer   {}  ", key.text));
    gateway.send(&lower_case).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn a_cap_of_the_key_on_output_reaches_the_provider() {
    use crate::support::{MockUpstream, Reply, completion};
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"max_output_tokens": 50})).await;
    let mut body = chat("gpt-4o");
    gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    body["max_tokens"] = json!(20);
    gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    body["max_tokens"] = json!(70);
    gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    let cap = |number: usize| {
        let sent = upstream.requests()[number].json();
        sent.get("max_tokens").or(sent.get("max_completion_tokens")).cloned()
    };
    assert_eq!([cap(0), cap(1), cap(2)], [Some(json!(50)), Some(json!(20)), Some(json!(50))]);
    gateway.stop().await;
}

/// The second process learns of it without being told: from the database.
#[tokio::test]
async fn changes_of_a_key_reach_every_process_within_a_second() {
    if !allow_replicas() {
        return;
    }
    let first = Gateway::start().await;
    let second = first.replica(Gateway::builder()).await;
    let mut worst = Duration::ZERO;
    for _ in 0..5 {
        let key = first.key().await;
        second.send(&echo(&key.text)).await.success();
        first.administer(delete(&format!("/v1/api-keys/{}", key.id))).await.success();
        let revoked = Instant::now();
        eventually("the revocation elsewhere", || async {
            (second.send(&echo(&key.text)).await.status == 401).then_some(())
        })
        .await;
        worst = worst.max(revoked.elapsed());
    }
    println!("a revocation took at most {worst:?} to reach the other process");
    assert!(worst <= EVERYWHERE, "{worst:?}");
    second.stop().await;
    first.stop().await;
}
