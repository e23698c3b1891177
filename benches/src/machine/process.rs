//! CPU time and memory of a process and of those that descend from it.

use std::{collections::BTreeMap, fs, time::Duration};

/// How long each thread has run, as the scheduler counts it, to the nanosecond.
pub(crate) struct CpuTimes {
    threads: BTreeMap<u32, Thread>,
}

struct Thread {
    name: String,
    ran: Duration,
}

/// What was used between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) total: Duration,
    /// By the names of threads, as far as the kernel keeps them: 15 characters.
    pub(crate) by_thread: BTreeMap<String, Duration>,
}

impl CpuTimes {
    pub(crate) fn of(process: u32) -> Self {
        let mut threads = BTreeMap::new();
        for id in family(process).into_iter().flat_map(threads_of) {
            // Both are gone when the thread is.
            let told = fs::read_to_string(format!("/proc/{id}/schedstat")).ok();
            let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
            let name = fs::read_to_string(format!("/proc/{id}/comm"));
            if let (Some(nanoseconds), Ok(name)) = (nanoseconds, name) {
                let thread = Thread { name: name.trim_end().to_owned(), ran: Duration::from_nanos(nanoseconds) };
                threads.insert(id, thread);
            }
        }
        Self { threads }
    }

    /// A thread that has ended meanwhile is not counted: those of a pool end after 10 s without work.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let mut spent = Spent::default();
        for (id, thread) in &self.threads {
            let before = earlier.threads.get(id).map(|thread| thread.ran).unwrap_or_default();
            let ran = thread.ran.saturating_sub(before);
            spent.total += ran;
            *spent.by_thread.entry(thread.name.clone()).or_default() += ran;
        }
        spent
    }
}

pub(crate) fn resident_kib(process: u32) -> u64 {
    let resident = |process: u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok())
    };
    family(process).into_iter().filter_map(resident).sum()
}

/// The process and all that descend from it.
pub(super) fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut next = 0;
    while let Some(member) = family.get(next).copied() {
        for thread in threads_of(member) {
            let children = fs::read_to_string(format!("/proc/{member}/task/{thread}/children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        next += 1;
    }
    family
}

fn threads_of(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, process::Command, time::Instant};

    use super::*;

    #[test]
    fn work_of_a_named_thread_is_told_under_its_name() {
        let before = CpuTimes::of(std::process::id());
        let worker = std::thread::Builder::new().name("hard worker".to_owned()).spawn(|| {
            let mut sum = 0_u64;
            let began = Instant::now();
            // Until it is seen: a loaded machine gives a thread less than the time that passes.
            while CpuTimes::of(std::process::id()).since(&CpuTimes { threads: BTreeMap::new() }).by_thread["hard worker"]
                < Duration::from_millis(5)
            {
                sum = black_box(sum.wrapping_add(1));
                assert!(began.elapsed() < Duration::from_secs(60));
            }
            CpuTimes::of(std::process::id())
        });
        let spent = worker.unwrap().join().unwrap().since(&before);
        assert!(spent.by_thread["hard worker"] >= Duration::from_millis(5), "{spent:?}");
        assert!(spent.total >= spent.by_thread["hard worker"]);
    }

    #[test]
    fn children_belong_to_the_family() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let family = family(std::process::id());
        let memory = resident_kib(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.contains(&child.id()), "{family:?}");
        assert!(memory > 1000, "{memory}");
    }
}
