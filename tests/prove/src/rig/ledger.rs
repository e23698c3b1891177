//! The ledger as it lies in Postgres.

use super::{catalogue::Usage, sql::Session};

/// Of kinds.
pub(crate) const CHARGE: i16 = 1;
pub(crate) const HOLD: i16 = 3;
pub(crate) const RELEASE: i16 = 4;

/// Of outcomes.
pub(crate) const SUCCESS: i16 = 1;
pub(crate) const CANCELLED: i16 = 3;
pub(crate) const LOST: i16 = 4;

/// Of sources.
pub(crate) const PROVIDER: i16 = 1;
pub(crate) const ESTIMATED: i16 = 4;
pub(crate) const BOUND: i16 = 5;

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) request: String,
    pub(crate) attempt: i32,
    pub(crate) kind: i16,
    pub(crate) key: String,
    pub(crate) model: String,
    pub(crate) outcome: i16,
    pub(crate) usage: Usage,
    pub(crate) source: i16,
    pub(crate) price_version: Option<i64>,
    pub(crate) cost_pico: i128,
}

/// All events, in the order of their requests.
pub(crate) async fn events(session: &mut Session) -> Vec<Event> {
    let rows = session
        .query(
            "SELECT request_id, attempt, kind, key_id, model, outcome, input_tokens, cache_read_tokens, output_tokens, \
             reasoning_tokens, images, usage_source, price_version, cost_pico, cache_write_tokens + audio_input_tokens + \
             audio_output_tokens FROM usage_event ORDER BY request_id, attempt, kind, revision",
        )
        .await
        .unwrap();
    rows.into_iter()
        .map(|row| {
            let text = |at: usize| row[at].clone().unwrap();
            let number = |at: usize| text(at).parse::<i64>().unwrap();
            let code = |at: usize| text(at).parse::<i16>().unwrap();
            assert_eq!(number(14), 0, "tokens in buckets that no proof fills: {row:?}");
            Event {
                request: text(0),
                attempt: text(1).parse().unwrap(),
                kind: code(2),
                key: text(3),
                model: text(4),
                outcome: code(5),
                usage: Usage {
                    input: number(6),
                    cache_read: number(7),
                    output: number(8),
                    reasoning: number(9),
                    images: number(10),
                },
                source: code(11),
                price_version: row[12].as_ref().map(|version| version.parse().unwrap()),
                cost_pico: i128::from(number(13)),
            }
        })
        .collect()
}

/// Numbers that were acknowledged and are of no row. A journal that had to number its events anew, because it and the ledger
/// counted differently, has sent some that the ledger has under other numbers: it knows them by what they are, and their new
/// numbers stay empty.
pub(crate) async fn empty_numbers(session: &mut Session) -> i64 {
    number(
        session,
        "SELECT coalesce(sum(acknowledged - coalesce(events, 0)), 0) FROM spool LEFT JOIN \
         (SELECT spool_id, count(*) AS events FROM usage_event GROUP BY 1) AS sums ON spool_id = id",
    )
    .await
}

/// Events and hourly sums say the same, and no spool has events beyond where it stands; returns what differs.
pub(crate) async fn differences(session: &mut Session) -> Vec<String> {
    let statements = [
        (
            "keys, hours and models whose sums are not those of their events",
            "SELECT count(*) FROM (SELECT key_id, admitted_at / 3600000000 AS hour, model, \
             sum(sign * (input_tokens + cache_read_tokens + cache_write_tokens + audio_input_tokens)) AS tokens_in, \
             sum(sign * (output_tokens + reasoning_tokens + audio_output_tokens)) AS tokens_out, sum(cost_pico) AS cost, \
             count(DISTINCT request_id) FILTER (WHERE kind = 1) AS requests FROM \
             (SELECT *, CASE kind WHEN 4 THEN -1 ELSE 1 END AS sign FROM usage_event) AS signed GROUP BY 1, 2, 3) AS events \
             FULL JOIN usage_hour USING (key_id, hour, model) WHERE usage_hour.input_tokens IS DISTINCT FROM tokens_in \
             OR usage_hour.output_tokens IS DISTINCT FROM tokens_out OR usage_hour.requests IS DISTINCT FROM events.requests \
             OR cost_micro::numeric * 1000000 + cost_rest IS DISTINCT FROM cost",
        ),
        (
            "spools with events beyond what is acknowledged of them",
            "SELECT count(*) FROM spool JOIN (SELECT spool_id, count(*) AS events, max(spool_position) AS last \
             FROM usage_event GROUP BY 1) AS sums ON spool_id = id WHERE acknowledged < events OR acknowledged <= last",
        ),
        (
            "positions of a spool that were used twice",
            "SELECT count(*) FROM (SELECT 1 FROM usage_event GROUP BY spool_id, spool_position HAVING count(*) > 1) AS twice",
        ),
    ];
    let mut differences = Vec::new();
    for (what, statement) in statements {
        let count = number(session, statement).await;
        if count != 0 {
            differences.push(format!("{count} {what}"));
        }
    }
    differences
}

pub(crate) async fn number(session: &mut Session, statement: &str) -> i64 {
    let rows = session.query(statement).await.unwrap();
    rows[0][0].as_ref().map_or(0, |text| text.parse().unwrap())
}
