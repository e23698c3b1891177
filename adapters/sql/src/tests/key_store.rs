mod sqlite {
    use crate::tests::harness::{On, Sqlite};

    ai4free_contract::key_store_contract!(On<Sqlite>);
}

mod postgres {
    use crate::tests::harness::{On, Postgres};

    ai4free_contract::key_store_contract!(On<Postgres>);
}
