//! The Redis adapter against real servers: the contract on the one of `AI4FREE_TEST_REDIS_URL`, faults on its own ones.

mod contract;
mod faults;
mod replicas;
mod server;
