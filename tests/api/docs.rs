//! The specification and the page that shows it.

use crate::support::{Gateway, get};

#[tokio::test]
async fn the_page_asks_nobody_else_for_anything() {
    let gateway = Gateway::start().await;
    let page = gateway.send(&get("/docs")).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
    let html = page.text();
    // What a browser would load by itself; the scripts' own texts are not tags.
    let without_scripts = outside(&html, "<script", "</script>");
    for tag in ["<link", "<img", "<iframe", "<object", "<base", "<source"] {
        assert!(!without_scripts.contains(tag), "{tag}");
    }
    for opening in html.split("<script").skip(1).filter_map(|rest| rest.split('>').next()) {
        assert!(!opening.contains("src="), "<script{opening}>");
    }
    let styles: String = html.split("<style").skip(1).filter_map(|rest| rest.split("</style>").next()).collect();
    assert!(!styles.contains("@import") && !styles.contains("url(http") && !styles.contains("url(//"));
    gateway.stop().await;
}

#[tokio::test]
async fn the_served_specification_is_the_committed_one() {
    let gateway = Gateway::start().await;
    let served = gateway.send(&get("/openapi.json")).await;
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json")).unwrap();
    assert!(served.body == committed, "openapi/openapi.json is stale");
    let specification = served.json();
    let paths = specification["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/chat/completions") && paths.contains_key("/v1/models/{model}"));
    assert!(!paths.contains_key("/v1/embeddings"), "what is not built is not promised");
    gateway.stop().await;
}

#[tokio::test]
async fn both_can_be_switched_off() {
    let gateway = Gateway::builder().set("AI4FREE__HTTP__DOCS", "false").start().await;
    for path in ["/docs", "/openapi.json"] {
        gateway.send(&get(path)).await.error(404);
    }
    gateway.stop().await;
}

fn outside(text: &str, opening: &str, closing: &str) -> String {
    let mut parts = text.split(opening);
    let before = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once(closing)).fold(before, |text, (_, after)| text + after)
}
