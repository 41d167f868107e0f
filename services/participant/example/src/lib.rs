//! A saga participant on plain sqlx, without the ledger: a loyalty-points service.
