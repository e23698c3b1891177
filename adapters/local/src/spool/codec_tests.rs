use proptest::{option, prelude::*};

use super::*;

prop_compose! {
    fn usages()(n in any::<[u64; 8]>(), small in any::<bool>()) -> TokenUsage {
        let [input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images] =
            n.map(|n| if small { n % 10_000 } else { n });
        TokenUsage { input, cache_read, cache_write, output, reasoning, audio_in, audio_out, images }
    }
}

fn sources() -> impl Strategy<Value = UsageSource> {
    use UsageSource::{Bound, Counted, Drained, Estimated, Provider};
    prop::sample::select(vec![Provider, Counted, Drained, Estimated, Bound])
}

fn texts() -> impl Strategy<Value = Arc<str>> {
    ".{0,40}".prop_map(Arc::from)
}

prop_compose! {
    fn labels()(
        key in prop_oneof![Just(KeyId::system()), "[0-9A-Za-z]{12}".prop_map(|id| KeyId::parse(&id).unwrap())],
        user in option::of(texts()),
        model in texts(),
        provider in option::of(texts()),
        credential in option::of(texts()),
        error in option::of(texts()),
    ) -> UsageEvent {
        UsageEvent { user, provider, credential, error: error.map(|code| code.to_string().into()),
            ..crate::test_events::event(0, key, model) }
    }
}

prop_compose! {
    fn spendings()(
        scope in prop::sample::select(vec![Scope::Gateway, Scope::User("u:1".into()), Scope::Key(KeyId::system())]),
        window in any::<i64>(),
        holder in prop_oneof![
            any::<i64>().prop_map(|epoch| Holder::Shared(Epoch(epoch))),
            any::<(u128, i64)>().prop_map(|(spool, generation)| Holder::Process {
                spool: SpoolId(Uuid::from_u128(spool)), generation
            }),
        ],
    ) -> Spending {
        Spending { scope, window: Timestamp(window), holder }
    }
}

prop_compose! {
    pub(crate) fn events()(
        labels in labels(),
        request in any::<u128>(),
        (attempt, revision) in any::<(u16, u16)>(),
        kind in prop::sample::select(vec![EventKind::Charge, EventKind::Adjustment, EventKind::Hold, EventKind::Release]),
        operation in prop::sample::select(vec![Operation::Chat, Operation::ImageGeneration]),
        outcome in prop::sample::select(vec![Outcome::Success, Outcome::Failed, Outcome::Cancelled, Outcome::Lost]),
        (first_ms, total_ms, price_version) in any::<(Option<u32>, Option<u32>, Option<u32>)>(),
        usage in usages(),
        usage_source in sources(),
        (admitted_at, cost, provider_cost) in any::<(i64, i64, Option<i64>)>(),
        spending in prop::collection::vec(spendings(), 0..4),
    ) -> UsageEvent {
        UsageEvent {
            request: RequestId(Uuid::from_u128(request)), attempt, kind, revision, operation, outcome, first_ms, total_ms,
            price_version, usage, usage_source, admitted_at: Timestamp(admitted_at), cost: PicoUsd(cost),
            provider_cost: provider_cost.map(PicoUsd), spending, ..labels
        }
    }
}

proptest! {
    #[test]
    fn an_event_is_read_back_as_it_was_written(event in events()) {
        let mut bytes = Vec::new();
        put_event(&mut bytes, &event);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.event().unwrap(), event);
        reader.end().unwrap();
    }

    #[test]
    fn a_cut_event_is_an_error(event in events(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        put_event(&mut bytes, &event);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Reader::new(&bytes).event().is_err());
    }

    #[test]
    fn a_checkpoint_is_read_back_as_it_was_written(request in any::<u128>(), usage in usages(), source in sources(), cost in any::<i64>()) {
        let checkpoint = Checkpoint { request: RequestId(Uuid::from_u128(request)), usage, source, cost: PicoUsd(cost) };
        let mut bytes = Vec::new();
        put_checkpoint(&mut bytes, &checkpoint);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.checkpoint().unwrap(), checkpoint);
        reader.end().unwrap();
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Reader::new(&bytes).event();
        let _ = Reader::new(&bytes).checkpoint();
        let _ = Reader::new(&bytes).varint();
    }
}

#[test]
fn numbers_beyond_64_bits_are_refused() {
    assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).varint(), Ok(u64::MAX));
    assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint().is_err());
    assert!(Reader::new(&[0x80; 11]).varint().is_err());
}
