//! Inserts of many rows at once, with their SQL made once.

use std::collections::HashMap;

use ledger::Error;
use ledger::sql::{Dialect, Dynamic, Tx, Value};

/// Rows of one statement; the largest that fits is taken.
const SIZES: [usize; 4] = [32, 8, 2, 1];

/// One `INSERT` for any number of rows.
#[derive(Debug)]
pub(super) struct Insert {
    head: &'static str,
    tail: &'static str,
    by_size: HashMap<usize, String>,
}

impl Insert {
    /// `head` ends with `VALUES`; `tail` is what follows the rows.
    pub(super) fn new(head: &'static str, tail: &'static str) -> Self {
        Self {
            head,
            tail,
            by_size: HashMap::new(),
        }
    }

    /// Inserts rows of `width` values each; `values` holds them one after the other.
    pub(super) async fn run(
        &mut self,
        tx: &mut Tx,
        width: usize,
        values: Vec<Value>,
    ) -> Result<(), Error> {
        let dialect = tx.dialect();
        let mut left = values.len() / width;
        let mut values = values.into_iter();
        while left > 0 {
            let size = SIZES.into_iter().find(|size| *size <= left).unwrap_or(1);
            let params = values.by_ref().take(size * width).collect();
            tx.execute(Dynamic(self.sql(dialect, size, width)), params)
                .await?;
            left -= size;
        }
        Ok(())
    }

    fn sql(&mut self, dialect: Dialect, size: usize, width: usize) -> String {
        let (head, tail) = (self.head, self.tail);
        let sql = self.by_size.entry(size).or_insert_with(|| {
            let rows = (0..size).map(|row| {
                let columns: Vec<String> = (0..width)
                    .map(|column| parameter(dialect, row * width + column + 1))
                    .collect();
                format!("({})", columns.join(", "))
            });
            format!("{head} {} {tail}", rows.collect::<Vec<_>>().join(", "))
        });
        sql.clone()
    }
}

/// SQLite looks a numbered parameter up by its name, in a list that it walks; an unnumbered one it does not.
fn parameter(dialect: Dialect, number: usize) -> String {
    match dialect {
        Dialect::Sqlite => "?".to_owned(),
        Dialect::Postgres => format!("${number}"),
    }
}
