//! Which stores the suite runs over: `AI4FREE_TEST_STORES`, one of `sqlite+memory` (the default), `postgres+memory`,
//! `sqlite+redis`, `postgres+redis`. Each gateway gets a database and a Redis prefix of its own.

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::postgres;

/// What one gateway, or several that belong together, keep their data in.
pub(crate) struct Stores {
    database_url: Option<String>,
    redis_url: Option<String>,
    redis_prefix: String,
}

impl Stores {
    pub(crate) async fn fresh() -> Self {
        let name = unique_name();
        let database_url = match uses_postgres() {
            true => Some(postgres::create_database(&service("AI4FREE_TEST_POSTGRES_URL"), &name).await),
            false => None,
        };
        Self { database_url, redis_url: uses_redis().then(|| service("AI4FREE_TEST_REDIS_URL")), redis_prefix: name }
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![("AI4FREE__REDIS__PREFIX".to_owned(), self.redis_prefix.clone())];
        variables.extend(self.database_url.clone().map(|url| ("DATABASE_URL".to_owned(), url)));
        if let Some(url) = &self.redis_url {
            variables.push(("REDIS_URL".to_owned(), url.clone()));
            // Of a machine that does much else at the same time. What a slow Redis does is for the adapter's tests and proofs.
            variables.push(("AI4FREE__REDIS__TIMEOUT_MS".to_owned(), "5000".to_owned()));
        }
        variables
    }

    /// One command to Redis, in which `{}` is the beginning of all keys: the first line of its reply.
    pub(crate) async fn redis(&self, command: &[&str]) -> String {
        let url = self.redis_url.as_deref().expect("stores with Redis");
        let address = url.trim_start_matches("redis://").trim_end_matches('/');
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let mut bytes = format!("*{}\r\n", command.len());
        for word in command {
            let word = word.replace("{}", &format!("{{{}}}", self.redis_prefix));
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        reply.trim_end().to_owned()
    }

    pub(crate) async fn drop_database(&self) {
        if let Some(url) = &self.database_url {
            postgres::drop_database(&service("AI4FREE_TEST_POSTGRES_URL"), url).await;
        }
    }
}

/// Several processes may serve together only over stores that they share.
pub(crate) fn allow_replicas() -> bool {
    uses_postgres() && uses_redis()
}

pub(crate) fn uses_postgres() -> bool {
    stores().starts_with("postgres+")
}

pub(crate) fn uses_redis() -> bool {
    stores().ends_with("+redis")
}

fn stores() -> String {
    let stores = env::var("AI4FREE_TEST_STORES").unwrap_or_else(|_| "sqlite+memory".to_owned());
    let known = ["sqlite+memory", "postgres+memory", "sqlite+redis", "postgres+redis"];
    assert!(known.contains(&&*stores), "AI4FREE_TEST_STORES is {stores:?}, not one of {known:?}");
    stores
}

fn service(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set, and AI4FREE_TEST_STORES asks for it"))
}

fn unique_name() -> String {
    format!("ai4free_api_{:016x}", RandomState::new().build_hasher().finish())
}
