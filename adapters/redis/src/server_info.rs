/// The reply of INFO. Managed servers that forbid CONFIG still answer it.
pub(crate) struct ServerInfo<'a>(pub(crate) &'a str);

impl<'a> ServerInfo<'a> {
    /// New with every start of a server's process.
    pub(crate) fn run_id(&self) -> Option<&'a str> {
        self.field("run_id").filter(|id| !id.is_empty())
    }

    /// Why this server can't be trusted with money; rates may go on.
    pub(crate) fn unfit_for_money(&self) -> Option<&'static str> {
        if self.run_id().is_none() {
            return Some("it does not tell its run_id");
        }
        if self.field("redis_version").and_then(major).is_some_and(|major| major < 7) {
            // It would hand the scripts of an epoch on to its replicas: a failover would pass unnoticed.
            return Some("it is older than version 7");
        }
        // Where the policy is not told, only an eviction itself could show it.
        if self.field("maxmemory_policy").is_some_and(|policy| policy != "noeviction") {
            return Some("it evicts keys when its memory is full: set maxmemory-policy to noeviction");
        }
        if self.field("role").is_some_and(|role| role != "master") {
            return Some("it is a replica, which can't be written to");
        }
        None
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// Valkey tells the version of Redis that it is compatible with.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_needs_a_primary_that_neither_evicts_nor_spreads_its_scripts() {
        let server = |change: (&str, &str)| {
            let info = "redis_version:7.0.15\r\nrun_id:5f2a\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n";
            ServerInfo(&info.replace(change.0, change.1)).unfit_for_money().is_none()
        };
        assert!(server(("", "")));
        assert!(server(("maxmemory_policy:noeviction\r\n", "")));
        assert!(server(("7.0.15", "10.1")));
        for change in [
            ("7.0.15", "6.2.14"),
            ("run_id:5f2a\r\n", ""),
            ("role:master", "role:slave"),
            ("noeviction", "allkeys-lru"),
            ("noeviction", "volatile-ttl"),
        ] {
            assert!(!server(change), "{change:?}");
        }
    }
}
