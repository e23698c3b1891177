/// Longest piece that is tokenised at once, in bytes.
const PIECE: usize = 64 * 1024;

/// The text in pieces of bounded length, cut between characters.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(rest.floor_char_boundary(PIECE))?;
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_short_and_together_the_whole_text() {
        for text in ["", "short", &"ä€😀x".repeat(50_000), &"a".repeat(PIECE), &"a".repeat(PIECE + 1)] {
            assert!(pieces(text).all(|piece| (1..=PIECE).contains(&piece.len())));
            assert_eq!(pieces(text).collect::<String>(), text);
        }
    }
}
