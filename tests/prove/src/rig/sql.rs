//! Queries to Postgres over its wire protocol, in text: the oracle must not read the ledger through the code that wrote it.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::{fmt, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

#[derive(Debug)]
pub(crate) enum SqlError {
    Io(io::Error),
    Refused(String),
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(reason) => reason.fmt(f),
        }
    }
}

impl From<io::Error> for SqlError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The columns of one row.
pub(crate) type Row = Vec<Option<String>>;

pub(crate) struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    pub(crate) async fn open(address: SocketAddr, password: &str, database: &str) -> Result<Self, SqlError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(stream) };
        let mut start = 196_608_u32.to_be_bytes().to_vec();
        start.extend(format!("user\0postgres\0database\0{database}\0\0").bytes());
        session.send(None, &start).await?;
        loop {
            let (kind, payload) = session.message().await?;
            match (kind, payload.get(..4)) {
                (b'R', Some([0, 0, 0, 3])) => session.send(Some(b'p'), format!("{password}\0").as_bytes()).await?,
                (b'R', Some([0, 0, 0, 0])) => {}
                (b'R', _) => return Err(SqlError::Refused("asks for another way to log in".to_owned())),
                (b'E', _) => return Err(SqlError::Refused(readable(&payload))),
                (b'Z', _) => return Ok(session),
                _ => {}
            }
        }
    }

    pub(crate) async fn query(&mut self, statement: &str) -> Result<Vec<Row>, SqlError> {
        self.send(Some(b'Q'), format!("{statement}\0").as_bytes()).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let (kind, payload) = self.message().await?;
            match kind {
                b'D' => rows.push(row(&payload)),
                b'E' => refused = Some(SqlError::Refused(readable(&payload))),
                b'Z' => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: Option<u8>, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len() + 4).unwrap();
        let message: Vec<u8> = kind.into_iter().chain(length.to_be_bytes()).chain(payload.iter().copied()).collect();
        self.stream.get_mut().write_all(&message).await
    }

    async fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let length = self.stream.read_u32().await?;
        let mut payload = vec![0; usize::try_from(length).unwrap().saturating_sub(4)];
        self.stream.read_exact(&mut payload).await?;
        Ok((kind, payload))
    }
}

/// A count of columns, then each with its length; -1 is NULL.
fn row(payload: &[u8]) -> Row {
    let (count, mut rest) = payload.split_at(2);
    let count = usize::from(u16::from_be_bytes(count.try_into().unwrap()));
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_at(4);
        let length = i32::from_be_bytes(length.try_into().unwrap());
        match usize::try_from(length) {
            Ok(length) => {
                let (value, after) = after.split_at(length);
                columns.push(Some(String::from_utf8_lossy(value).into_owned()));
                rest = after;
            }
            Err(_) => {
                columns.push(None);
                rest = after;
            }
        }
    }
    columns
}

fn readable(error: &[u8]) -> String {
    String::from_utf8_lossy(error).replace('\0', " ")
}
