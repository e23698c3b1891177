use std::fmt::Write;

use ai4free_ports::{
    budget::{Epoch, MoneyWindow},
    rate_limiter::{Claim, LeaseId, LimitKind, Scope},
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::SpoolId,
};
use fred::types::{Key, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::script::Arguments;

/// What the keys mean. A release that changes it takes the next number, and does not read what the one before it wrote.
const LAYOUT: u8 = 0;

/// A longer id of a scope is replaced by its hash.
const LONGEST_ID: usize = 128;
/// More than most requests have.
const CLAIMS: usize = 16;
/// Of what a key has beside its start and the id of its scope.
const LONGEST_REST: usize = 64;

/// The names of everything in Redis. One hash tag, so that a cluster keeps all of it in one place.
pub(crate) struct Keys {
    /// `{prefix}:layout:`
    start: Box<str>,
    /// The name of this replica.
    pub(crate) replica: Box<str>,
    /// Leases of this replica.
    pub(crate) leases: Key,
    /// The latest second that any replica saw.
    pub(crate) clock: Key,
    /// The epoch that the data belongs to.
    pub(crate) epoch: Key,
    /// All replicas, by their last heartbeat.
    pub(crate) replicas: Key,
    /// The replicas of which leases were given up, by when that was.
    pub(crate) given_up: Key,
}

impl Keys {
    pub(crate) fn new(prefix: &str, replica: &str) -> Self {
        let start = format!("{{{prefix}}}:{LAYOUT}:");
        let key = |name: &str| Key::from(format!("{start}{name}"));
        let leases = key(&format!("l:{replica}"));
        let (clock, epoch, replicas, given_up) = (key("t"), key("e"), key("reps"), key("gone"));
        Self { start: start.into(), replica: replica.into(), leases, clock, epoch, replicas, given_up }
    }

    /// Leases of another replica.
    pub(crate) fn leases_of(&self, replica: &str) -> Key {
        format!("{}l:{replica}", self.start).into()
    }

    /// The last correction of a run.
    pub(crate) fn corrections(&self, run: SpoolId) -> Key {
        format!("{}fix:{}", self.start, run.0.as_simple()).into()
    }

    /// What every call of an operation of the script begins with.
    pub(crate) fn arguments(&self, operation: &'static str) -> Arguments {
        let (mut keys, mut values) = (Vec::with_capacity(CLAIMS), Vec::with_capacity(4 * CLAIMS));
        keys.extend([self.leases.clone(), self.clock.clone(), self.epoch.clone()]);
        values.push(Value::from_static_str(operation));
        Arguments { keys, values }
    }

    /// Where a claim is counted.
    pub(crate) fn claim(&self, claim: &Claim) -> Key {
        let kind = match claim.kind {
            LimitKind::Requests => "w:requests:",
            LimitKind::ImageRequests => "w:images:",
            LimitKind::Tokens => "w:tokens:",
            LimitKind::Concurrency => "c:",
        };
        let mut key = self.begin(kind, &claim.scope);
        push_scope(&mut key, &claim.scope);
        key.into()
    }

    /// What a budget has seen in a window, in one epoch.
    pub(crate) fn budget(&self, epoch: Epoch, of: &Scope, window: &MoneyWindow) -> Key {
        self.budget_from(epoch, of, window.start)
    }

    /// The same, of the window that starts then.
    pub(crate) fn budget_from(&self, epoch: Epoch, of: &Scope, start: Timestamp) -> Key {
        let mut key = self.begin("m:", of);
        // Writing to a string can't fail.
        let _ = write!(key, "{}:", epoch.0);
        push_scope(&mut key, of);
        let _ = write!(key, ":{}", start.0);
        key.into()
    }

    /// A key with room for all that will follow: every request makes one for each of its claims, twice.
    fn begin(&self, kind: &str, scope: &Scope) -> String {
        let mut key = String::with_capacity(self.start.len() + LONGEST_REST + scope.id().len());
        key.push_str(&self.start);
        key.push_str(kind);
        key
    }
}

/// The field of a lease.
pub(crate) fn lease(id: LeaseId) -> String {
    format!("{}.{}", id.request.0.as_simple(), id.number)
}

/// The lease of a field. `None`: the field is not one.
pub(crate) fn parse_lease(field: &str) -> Option<LeaseId> {
    let (request, number) = field.split_once('.')?;
    Some(LeaseId { request: RequestId(Uuid::parse_str(request).ok()?), number: number.parse().ok()? })
}

fn push_scope(key: &mut String, scope: &Scope) {
    let (name, id) = (scope.name(), scope.id());
    key.push_str(name);
    if id.len() <= LONGEST_ID {
        key.push(':');
        key.push_str(id);
        return;
    }
    key.push('#');
    for byte in Sha256::digest(id) {
        // Writing to a string can't fail.
        let _ = write!(key, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::limits::OutagePolicy;

    use super::*;

    #[test]
    fn names_are_stable_because_running_releases_share_them() {
        let keys = Keys::new("a4f", "pod-1");
        let name = |scope, kind| {
            let key = keys.claim(&Claim { scope, kind, limit: 1, amount: 1, on_redis_down: OutagePolicy::Closed });
            key.as_str().unwrap().to_owned()
        };
        assert_eq!(keys.leases.as_str(), Some("{a4f}:0:l:pod-1"));
        assert_eq!(keys.leases_of("pod-2").as_str(), Some("{a4f}:0:l:pod-2"));
        assert_eq!(keys.clock.as_str(), Some("{a4f}:0:t"));
        assert_eq!([&keys.replicas, &keys.given_up].map(Key::as_str), [Some("{a4f}:0:reps"), Some("{a4f}:0:gone")]);
        assert_eq!(name(Scope::Gateway, LimitKind::Requests), "{a4f}:0:w:requests:gateway:");
        assert_eq!(name(Scope::User("u:1".into()), LimitKind::Tokens), "{a4f}:0:w:tokens:user:u:1");
        assert_eq!(name(Scope::Model("m".into()), LimitKind::Concurrency), "{a4f}:0:c:model:m");
        assert_eq!(
            name(Scope::Model("m".repeat(129).into()), LimitKind::ImageRequests).len(),
            "{a4f}:0:w:images:model#".len() + 64
        );
        let run = SpoolId(Uuid::from_u128(7));
        assert_eq!(keys.corrections(run).as_str(), Some("{a4f}:0:fix:00000000000000000000000000000007"));
        let budget = keys.budget(Epoch(17), &Scope::User("u:1".into()), &MoneyWindow::TOTAL);
        assert_eq!(budget.as_str(), Some("{a4f}:0:m:17:user:u:1:0"));
    }

    #[test]
    fn leases_are_read_as_they_were_written() {
        let id = LeaseId { request: RequestId(Uuid::from_u128(7)), number: 3 };
        assert_eq!(parse_lease(&lease(id)), Some(id));
        for other in ["beat", "7.3", "00000000000000000000000000000007", "00000000000000000000000000000007.x"] {
            assert_eq!(parse_lease(other), None, "{other}");
        }
    }
}
