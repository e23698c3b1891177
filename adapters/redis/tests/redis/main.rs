//! The Redis adapter against real servers: the contract on the one of `AI4FREE_TEST_REDIS_URL`, faults on its own ones.

#[cfg(test)]
mod budget_counters;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod dead_replicas;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod patient;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod server;
#[cfg(test)]
mod spending;
