//! The table, as it stands in `BENCHMARKS.md`.

use std::{fs, path::Path};

use anyhow::Context;

use super::{
    Figure, Goal, MEASURES, Measure, Sheet,
    sheet::{best, median},
};

const BEGIN: &str = "<!-- figures: written by cargo run --release -p ai4free-bench -- full --write BENCHMARKS.md -->\n";
const END: &str = "<!-- end of figures -->\n";

pub(crate) fn markdown(sheet: &Sheet) -> String {
    let mut table = "| measure | best | median | compared with | goal | reached: best | reached: median | |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for measure in MEASURES {
        if let Some(line) = line(measure, &sheet.of(measure)) {
            table.push_str(&line);
        }
    }
    for skipped in &sheet.skipped {
        table.push_str(&format!("\nNot measured: {skipped}.\n"));
    }
    table
}

/// `None`: it was not measured.
fn line(measure: &Measure, figures: &[Figure]) -> Option<String> {
    let (unit, goal) = (measure.unit, measure.goal);
    let values = || figures.iter().map(|figure| figure.value);
    let reached = || figures.iter().map(|figure| figure.against(goal));
    let show_reached = |value: f64| match goal {
        Goal::Times(_) => format!("{value:.2} ×"),
        Goal::Over(_) if value < 0.0 => format!("−{}", unit.show(-value)),
        Goal::Over(_) => format!("+{}", unit.show(value)),
        Goal::AtMost(_) | Goal::AtLeast(_) => unit.show(value),
    };
    let wanted = match goal {
        Goal::Times(times) => format!("≤ {times} × {}", measure.base),
        Goal::Over(more) => format!("≤ {} + {}", measure.base, unit.show(more)),
        Goal::AtMost(most) => format!("≤ {}", unit.show(most)),
        Goal::AtLeast(least) => format!("≥ {}", unit.show(least)),
    };
    let base = median(figures.iter().filter_map(|figure| figure.base));
    let compared = base.map(|value| format!("{} {}", measure.base, unit.show(value))).unwrap_or_default();
    let median_reached = median(reached())?;
    Some(format!(
        "| {} | {} | {} | {compared} | {wanted} | {} | {} | {} |\n",
        measure.title,
        unit.show(best(goal, values())?),
        unit.show(median(values())?),
        show_reached(best(goal, reached())?),
        show_reached(median_reached),
        if goal.is_met(median_reached) { "met" } else { "**missed**" },
    ))
}

/// Puts `text` where the last one was.
pub(crate) fn write_between_markers(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    fs::write(path, replaced(&file, text)?)?;
    Ok(())
}

fn replaced(file: &str, text: &str) -> anyhow::Result<String> {
    let (before, rest) = file.split_once(BEGIN).context("the file lacks the marker before the figures")?;
    let (_, after) = rest.split_once(END).context("the file lacks the marker after the figures")?;
    Ok(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CPU_PATH, GAP_P99};

    #[test]
    fn a_line_says_what_was_reached_and_whether_it_is_enough() {
        let figures = [Figure::beside(16.0, 28.0), Figure::beside(16.0, 40.0), Figure::beside(16.0, 32.0)];
        assert_eq!(
            line(&CPU_PATH, &figures).unwrap(),
            "| CPU per request, c=64: request path | 28.0 µs | 32.0 µs | floor 16.0 µs | ≤ 2 × floor | 1.75 × | 2.00 × | met |\n"
        );
        let missed = line(&GAP_P99, &[Figure::beside(2.0, 2.75)]).unwrap();
        assert!(missed.ends_with("| ≤ floor + 0.50 ms | +0.75 ms | +0.75 ms | **missed** |\n"), "{missed}");
        assert!(line(&CPU_PATH, &[]).is_none());
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let file = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replaced(&file, "new").unwrap(), format!("a\n{BEGIN}\nnew\n{END}b\n"));
        assert!(replaced("no markers", "new").is_err());
    }
}
