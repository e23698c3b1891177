//! The table of all settings and what is said of their sections, made from the commented defaults: what is documented is what is read.

use std::fmt::Write;

use super::layers::DEFAULTS;

/// A markdown table: setting, default, meaning.
#[must_use]
pub fn reference() -> String {
    let mut table = String::from("| Setting | Default | Meaning |\n|---|---|---|\n");
    for row in rows() {
        let default = row.default.map_or_else(String::new, |default| format!("`{default}`"));
        let _ = writeln!(table, "| `{}` | {default} | {} |", row.name, row.meaning.replace('|', "\\|"));
    }
    table
}

/// A setting, or a section of which there is something to say.
struct Row {
    /// A setting's whole path; a section in its brackets.
    name: String,
    /// As TOML. `None`: it has no default.
    default: Option<String>,
    meaning: String,
}

/// In the order of the file. `# text` is a comment, `#key = value` a setting without default, `#[section]` a section that
/// is not there by default.
fn rows() -> Vec<Row> {
    let (mut rows, mut section, mut meaning) = (Vec::new(), String::new(), Vec::new());
    for line in DEFAULTS.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            meaning.push(comment);
            continue;
        }
        let has_default = !line.starts_with('#');
        let line = line.trim_start_matches('#');
        let meaning = std::mem::take(&mut meaning).join(" ");
        if let Some((key, value)) = line.split_once(" = ") {
            let name = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            let default = has_default.then(|| value.to_owned());
            rows.push(Row { name, default, meaning });
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            if !meaning.is_empty() {
                rows.push(Row { name: line.to_owned(), default: None, meaning });
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_what_it_means() {
        let rows = rows();
        assert!(rows.len() > 60, "{}", rows.len());
        for row in &rows {
            assert!(row.meaning.len() > 8, "{}", row.name);
        }
        assert!(reference().contains("| `server.drain_seconds` | `300` | Seconds that running requests get"));
        assert!(reference().contains("| `limits.users.\"ID\".requests_per_minute` |  | Text requests"));
    }

    #[test]
    fn a_section_says_what_its_settings_are() {
        let reference = reference();
        let gateway = "| `[limits.gateway]` |  | All keys together. Takes the same settings as a plan. |\n\
                       | `limits.gateway.requests_per_minute` |";
        assert!(reference.contains(gateway));
        assert!(reference.contains("| `[[providers.ID.credentials]]` |  | Its credentials, in the order"));
        assert!(!reference.contains("`[server]`"));
    }
}
