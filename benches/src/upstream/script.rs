//! How the name of a model steers what is answered.

use std::time::Duration;

/// A model whose streams say one word and then nothing.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// `NAME[-gapMILLISECONDS][-chunksCOUNT][-hold]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Words of a stream, each in an event and a write of its own.
    pub(crate) chunks: usize,
    /// Between two events of a stream.
    pub(crate) pause: Duration,
}

impl Script {
    pub(crate) fn of(model: &str) -> Self {
        let mut script = Self { chunks: 64, pause: Duration::ZERO };
        for word in model.split('-') {
            let number = |name: &str| word.strip_prefix(name)?.parse::<u32>().ok();
            if let Some(milliseconds) = number("gap") {
                script.pause = Duration::from_millis(milliseconds.into());
            }
            if let Some(count) = number("chunks").and_then(|count| usize::try_from(count).ok()) {
                script.chunks = count;
            }
            if word == "hold" {
                script.pause = FOR_EVER;
            }
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_steers_pauses_and_lengths() {
        let fast = Script { chunks: 64, pause: Duration::ZERO };
        assert_eq!(Script::of("bench"), fast);
        assert_eq!(Script::of("gpt-4o-mini"), fast);
        assert_eq!(Script::of("bench-gap10"), Script { pause: Duration::from_millis(10), ..fast });
        assert_eq!(Script::of("bench-chunks7-hold"), Script { chunks: 7, pause: FOR_EVER });
    }
}
