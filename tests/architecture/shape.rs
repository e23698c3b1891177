//! How files look: their size, their names, and what no file says.

use crate::source::SourceFile;

/// A file has at most 500 lines outside its tests.
pub(crate) fn files_are_small(files: &[SourceFile]) -> Vec<String> {
    const LIMIT: usize = 500;
    let large = files.iter().filter(|file| file.line_count() > LIMIT);
    large
        .map(|file| {
            format!(
                "{}: {} lines outside tests, over {LIMIT}: one idea a file; split by idea, not by length",
                file.path,
                file.line_count()
            )
        })
        .collect()
}

/// `main` only hands over to the command line.
pub(crate) fn main_is_tiny(files: &[SourceFile]) -> Vec<String> {
    const LIMIT: usize = 30;
    let mains = files.iter().filter(|file| file.path == "src/main.rs" && file.line_count() > LIMIT);
    mains
        .map(|file| {
            format!(
                "src/main.rs: {} lines, over {LIMIT}: what is in main can't be tested; it belongs in src/cli",
                file.line_count()
            )
        })
        .collect()
}

/// A file is named for its one idea, not for being left over.
pub(crate) fn files_are_named_for_an_idea(files: &[SourceFile]) -> Vec<String> {
    const LEFT_OVER: [&str; 6] = ["common", "helpers", "misc", "types", "util", "utils"];
    let stem = |file: &SourceFile| {
        file.path.split('/').next_back().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned)
    };
    let nameless = files.iter().filter(|file| stem(file).is_some_and(|stem| LEFT_OVER.contains(&stem.as_str())));
    nameless.map(|file| format!("{}: the name says nothing: name the file for the idea in it", file.path)).collect()
}

/// No file names a package registry's host: machines differ in where they get packages from, and say so in their own settings.
pub(crate) fn names_no_registry_host(path: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file passes too. Cargo writes the index's name into its lock file by itself.
    const HOSTS: [(&str, &str); 8] = [
        ("deb", "debian.org"),
        ("files", "pythonhosted.org"),
        ("index", "crates.io"),
        ("proxy", "golang.org"),
        ("pypi", "org"),
        ("registry", "npmjs.org"),
        ("registry", "yarnpkg.com"),
        ("static", "crates.io"),
    ];
    if path == "Cargo.lock" {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for host in HOSTS.map(|(name, domain)| format!("{name}.{domain}")) {
            if line.contains(&host) {
                violations.push(format!(
                    "{path}:{}: names {host}: where packages come from is the machine's setting",
                    index + 1
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{SourceFile, files_are_named_for_an_idea, files_are_small, main_is_tiny, names_no_registry_host};

    fn lines(count: usize) -> String {
        "fn a() {}\n".repeat(count)
    }

    #[test]
    fn the_limit_is_500_lines_outside_tests() {
        let check = |text: &str| files_are_small(&[SourceFile::parse("src/a.rs", text)]).len();
        assert_eq!(check(&lines(500)), 0);
        assert_eq!(check(&format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(500), lines(100))), 0);
        assert_eq!(check(&lines(501)), 1);
        assert_eq!(check(&format!("#[cfg(test)]\nuse a::b;\n{}", lines(501))), 1);
    }

    #[test]
    fn main_has_30_lines() {
        assert_eq!(main_is_tiny(&[SourceFile::parse("src/main.rs", &lines(30))]).len(), 0);
        assert_eq!(main_is_tiny(&[SourceFile::parse("src/main.rs", &lines(31))]).len(), 1);
        assert_eq!(main_is_tiny(&[SourceFile::parse("src/lib.rs", &lines(31))]).len(), 0);
    }

    #[test]
    fn a_left_over_name_is_refused() {
        assert_eq!(files_are_named_for_an_idea(&[SourceFile::parse("src/http/utils.rs", "")]).len(), 1);
        assert_eq!(files_are_named_for_an_idea(&[SourceFile::parse("src/http/routing.rs", "")]).len(), 0);
    }

    #[test]
    fn a_registry_host_is_refused_with_its_line() {
        let host = ["registry", "npmjs", "org"].join(".");
        let violations = names_no_registry_host(
            "tests/sdk/package-lock.json",
            &format!("{{\n\"resolved\": \"https://{host}/openai\"\n"),
        );
        assert!(violations.concat().starts_with("tests/sdk/package-lock.json:2: "), "{violations:?}");
        assert_eq!(names_no_registry_host("README.md", "published on crates.io and npm").len(), 0);
    }
}
