//! The table of all settings, made from the commented defaults: what is documented is what is read.

use std::fmt::Write;

use super::layers::DEFAULTS;

/// A markdown table: setting, default, meaning.
#[must_use]
pub fn reference() -> String {
    let mut table = String::from("| Setting | Default | Meaning |\n|---|---|---|\n");
    for setting in settings() {
        let default = setting.default.map_or_else(String::new, |default| format!("`{default}`"));
        let _ = writeln!(table, "| `{}` | {default} | {} |", setting.path, setting.meaning.replace('|', "\\|"));
    }
    table
}

pub(super) struct Setting {
    pub(super) path: String,
    /// As TOML. `None`: it has no default.
    pub(super) default: Option<String>,
    pub(super) meaning: String,
}

/// In the order of the file. `# text` is a comment, `#key = value` a setting without default, `#[section]` a section that
/// is not there by default.
pub(super) fn settings() -> Vec<Setting> {
    let (mut settings, mut section, mut meaning) = (Vec::new(), String::new(), Vec::new());
    for line in DEFAULTS.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            meaning.push(comment);
            continue;
        }
        let has_default = !line.starts_with('#');
        let line = line.trim_start_matches('#');
        if let Some((key, value)) = line.split_once(" = ") {
            let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            let default = has_default.then(|| value.to_owned());
            settings.push(Setting { path, default, meaning: meaning.join(" ") });
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        meaning.clear();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_what_it_means() {
        let settings = settings();
        assert!(settings.len() > 60, "{}", settings.len());
        for setting in &settings {
            assert!(setting.meaning.len() > 8, "{}", setting.path);
        }
        assert!(reference().contains("| `server.drain_seconds` | `300` | Seconds that running requests get"));
        assert!(reference().contains("| `limits.users.\"ID\".requests_per_minute` |  | Text requests"));
    }
}
