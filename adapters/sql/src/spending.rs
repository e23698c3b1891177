//! The budgets that an event is charged to, as the column of its row.

use ai4free_ports::{budget::Spending, rate_limiter::Scope, runtime::Timestamp};

use crate::failure::Failure;

/// JSON array of `[scope, start of the window, holder]`; empty for none, as most rows are.
pub(crate) fn to_text(spending: &[Spending]) -> String {
    if spending.is_empty() {
        return String::new();
    }
    let entries = spending.iter().map(|entry| {
        serde_json::Value::from(vec![
            serde_json::Value::from(entry.scope.to_text()),
            entry.window.0.into(),
            entry.holder.to_string().into(),
        ])
    });
    serde_json::Value::from_iter(entries).to_string()
}

pub(crate) fn parse(column: &str) -> Result<Vec<Spending>, Failure> {
    if column.is_empty() {
        return Ok(Vec::new());
    }
    let corrupt = || Failure::Corrupt("the budgets of a ledger row".into());
    let entries: Vec<(String, i64, String)> = serde_json::from_str(column).map_err(|_| corrupt())?;
    entries
        .into_iter()
        .map(|(scope, window, holder)| {
            Ok(Spending {
                scope: Scope::parse(&scope).ok_or_else(corrupt)?,
                window: Timestamp(window),
                holder: holder.parse().map_err(|_| corrupt())?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{
        budget::{Epoch, Holder},
        usage_ledger::SpoolId,
    };

    use super::*;

    #[test]
    fn budgets_are_read_as_they_were_written() {
        let process = Holder::Process { spool: SpoolId(uuid::Uuid::from_u128(9)), generation: 4 };
        let shared = Holder::Shared(Epoch(17));
        let entry = |scope, holder| Spending { scope, window: Timestamp(-5), holder };
        let spending = [
            entry(Scope::Gateway, shared),
            entry(Scope::User("a\"b:[é@".into()), process),
            entry(Scope::Model("openai/*".into()), process),
        ];
        assert_eq!(parse(&to_text(&spending)).unwrap(), spending);
        assert_eq!(to_text(&spending[..1]), r#"[["g",-5,"r:17"]]"#);
        assert_eq!((to_text(&[]), parse("").unwrap()), (String::new(), Vec::new()));
        for wrong in ["x", "[[]]", r#"[["z",1,"r:1"]]"#, r#"[["g",1,"0"]]"#, r#"[["g",1.5,"r:1"]]"#] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
