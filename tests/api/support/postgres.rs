//! Databases of tests are created and dropped over the wire protocol itself, so that the suite needs no client library.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Returns the URL of the new database.
pub(crate) async fn create_database(server: &str, name: &str) -> String {
    execute(server, &format!("CREATE DATABASE {name}")).await;
    let (address, _) = server.rsplit_once('/').unwrap();
    format!("{address}/{name}")
}

pub(crate) async fn drop_database(server: &str, url: &str) {
    let (_, name) = url.rsplit_once('/').unwrap();
    execute(server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn execute(server: &str, statement: &str) {
    let (account, place) = server.strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (user, password) = account.split_once(':').unwrap_or((account, ""));
    let (address, database) = place.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut start = 196_608_u32.to_be_bytes().to_vec();
    start.extend(format!("user\0{user}\0database\0{database}\0\0").bytes());
    stream.write_all(&framed(None, &start)).await.unwrap();
    loop {
        let (kind, payload) = message(&mut stream).await;
        match (kind, payload.get(..4)) {
            (b'R', Some([0, 0, 0, 3])) => {
                stream.write_all(&framed(Some(b'p'), format!("{password}\0").as_bytes())).await.unwrap();
            }
            (b'R', Some([0, 0, 0, 0])) => {}
            (b'R', _) => panic!("the Postgres of the tests must trust, or take a plain password"),
            (b'Z', _) => break,
            (b'E', _) => panic!("{}", String::from_utf8_lossy(&payload)),
            _ => {}
        }
    }
    stream.write_all(&framed(Some(b'Q'), format!("{statement}\0").as_bytes())).await.unwrap();
    loop {
        match message(&mut stream).await {
            (b'Z', _) => return,
            (b'E', payload) => panic!("{statement}: {}", String::from_utf8_lossy(&payload)),
            _ => {}
        }
    }
}

fn framed(kind: Option<u8>, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 4).unwrap();
    kind.into_iter().chain(length.to_be_bytes()).chain(payload.iter().copied()).collect()
}

async fn message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let length = stream.read_u32().await.unwrap();
    let mut payload = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut payload).await.unwrap();
    (kind, payload)
}
