//! Results on stdout, complaints on stderr. The only place that writes to either.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
    /// Comma-separated values with a header, as RFC 4180 has them
    Csv,
}

/// A result in both of its forms.
pub(super) struct Report {
    /// None: the first column says what each row is.
    pub(super) headers: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    pub(super) json: Value,
}

impl Report {
    pub(super) fn print(&self, format: Format) -> io::Result<()> {
        match format {
            Format::Json => print_json(&self.json),
            Format::Csv => print_line(&self.csv()),
            Format::Table => print_line(&self.table(io::stdout().is_terminal())),
        }
    }

    fn csv(&self) -> String {
        let headers: Vec<String> = self.headers.iter().map(|header| (*header).to_owned()).collect();
        let lines = (!headers.is_empty()).then_some(&headers).into_iter().chain(&self.rows);
        let line = |cells: &Vec<String>| cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",");
        lines.map(line).collect::<Vec<_>>().join("\r\n")
    }

    /// Framed for people; in a pipe one plain line per row, for `grep` and `awk`.
    fn table(&self, framed: bool) -> String {
        let mut table = Table::new();
        table.load_preset(if framed { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
        table.set_content_arrangement(ContentArrangement::Disabled);
        if !self.headers.is_empty() {
            table.set_header(&self.headers);
        }
        table.add_rows(self.rows.iter().map(|row| row.iter().map(|cell| on_one_line(cell))));
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

pub(super) fn print_json(value: &Value) -> io::Result<()> {
    print_line(&format!("{value:#}"))
}

/// Nobody reads on (`… | head`): that is no failure.
pub(super) fn print_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

pub(super) fn complain(text: &str) {
    // With stderr closed there is nobody left to tell.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// A cell can't break out of its row, nor colour the terminal.
fn on_one_line(cell: &str) -> String {
    cell.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let rows = vec![vec!["a,b".to_owned(), "say \"hi\"".to_owned()], vec!["plain".to_owned(), String::new()]];
        let report = Report { headers: vec!["name", "text"], rows, json: Value::Null };
        assert_eq!(report.csv(), "name,text\r\n\"a,b\",\"say \"\"hi\"\"\"\r\nplain,");
    }

    #[test]
    fn a_table_in_a_pipe_is_one_plain_line_per_row() {
        let rows = vec![vec!["a\n\x1b[31m".to_owned(), "1".to_owned()], vec!["bb".to_owned(), "22".to_owned()]];
        let report = Report { headers: vec!["name", "n"], rows, json: Value::Null };
        assert_eq!(report.table(false).lines().count(), 3);
        assert!(!report.table(true).contains('\x1b'));
        assert!(report.table(true).starts_with('┌'));
    }
}
