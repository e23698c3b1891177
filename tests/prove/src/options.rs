//! The command line.

use crate::promises::{PROMISES, Promise};

const USAGE: &str = "\
usage: prove [--tier 1|2] [--rounds N] [--seed N] [PROMISE…]

Proves the promises of PROMISES.md on this machine: real processes, a private Postgres and Redis, faults made on purpose.
Prints one line of JSON for each promise on standard output.

  --tier    1 (default): the short form of each; 2: the full one
  --rounds  how often a promise with rounds repeats them, in place of the tier's number
  --seed    of everything random, to repeat a run

Exit codes: 0 all hold, 1 one does not, 2 usage.
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Short,
    Full,
}

pub(crate) struct Options {
    pub(crate) tier: Tier,
    pub(crate) rounds: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) promises: Vec<&'static Promise>,
}

impl Options {
    /// # Errors
    /// What to print, and the exit code.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Self, (String, i32)> {
        let wrong = |what: &str| (format!("prove: {what}\n{USAGE}"), 2);
        let mut arguments = arguments.peekable();
        let (mut tier, mut rounds, mut seed, mut promises) = (Tier::Short, None, None, Vec::new());
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
            match &*argument {
                "--help" | "-h" => return Err((USAGE.to_owned(), 0)),
                "--tier" => match number() {
                    Some(1) => tier = Tier::Short,
                    Some(2) => tier = Tier::Full,
                    _ => return Err(wrong("--tier is 1 or 2")),
                },
                "--rounds" => rounds = Some(number().ok_or_else(|| wrong("--rounds takes a number"))?),
                "--seed" => seed = Some(number().ok_or_else(|| wrong("--seed takes a number"))?),
                name => {
                    let known = PROMISES.iter().find(|promise| promise.id.eq_ignore_ascii_case(name));
                    promises.push(known.ok_or_else(|| wrong(&format!("there is no promise {name:?}")))?);
                }
            }
        }
        if promises.is_empty() {
            promises = PROMISES.iter().collect();
        }
        Ok(Self { tier, rounds, seed: seed.unwrap_or_else(seed_of_now), promises })
    }
}

fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}
