//! The databases of a system on a PostgreSQL server: one per service, made when they are not there.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::failure::{Exit, Failure};
use crate::launcher::plan::Plan;

/// Makes what is missing and returns each service's URL.
pub(crate) async fn databases(
    url: &str,
    prefix: &str,
    plan: &Plan,
) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    if prefix.is_empty() || !prefix.chars().all(allowed) {
        return Err(Failure::new(
            Exit::Usage,
            "--database-prefix takes lower-case letters, digits and _",
        )
        .into());
    }
    with_database(url, "postgres")?;
    let mut server = PgConnection::connect(url).await.map_err(|error| {
        Failure::new(Exit::NotRunning, format!("cannot connect to PostgreSQL: {error}"))
            .hint("Check the URL of --postgres: postgres://user:password@host:5432/database, with a database that exists.")
    })?;
    let mut urls = BTreeMap::new();
    for (service, _) in plan
        .replicas
        .iter()
        .filter(|(service, _)| *service != "gateway")
    {
        let name = format!("{prefix}_{service}");
        let exists = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
            .bind(&name)
            .fetch_optional(&mut server)
            .await
            .context("cannot read the list of databases")?
            .is_some_and(|row| row.len() == 1);
        if !exists {
            // The name consists of letters, digits and underscores: checked above.
            sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{name}\"")))
                .execute(&mut server)
                .await
                .with_context(|| format!("cannot make the database {name}: the user of --postgres needs the right CREATEDB"))?;
        }
        urls.insert(*service, with_database(url, &name)?);
    }
    server
        .close()
        .await
        .context("cannot close the connection to PostgreSQL")?;
    Ok(urls)
}

/// The same URL with another database.
fn with_database(url: &str, database: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::new(
            Exit::Usage,
            "--postgres takes a URL such as postgres://user:password@host:5432/database",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    if scheme != "postgres" && scheme != "postgresql" {
        return Err(wrong());
    }
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, format!("?{query}")),
        None => (rest, String::new()),
    };
    let authority = place
        .split_once('/')
        .map_or(place, |(authority, _)| authority);
    Ok(format!("{scheme}://{authority}/{database}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() -> Result<(), Failure> {
        for (given, expected) in [
            ("postgres://u:p@h:5432/postgres", "postgres://u:p@h:5432/x"),
            ("postgresql://h", "postgresql://h/x"),
            (
                "postgres://h/a?sslmode=disable",
                "postgres://h/x?sslmode=disable",
            ),
            ("postgres:///a?host=/run/pg", "postgres:///x?host=/run/pg"),
        ] {
            assert_eq!(with_database(given, "x")?, expected);
        }
        assert!(with_database("mysql://h/a", "x").is_err());
        assert!(with_database("h:5432", "x").is_err());
        Ok(())
    }
}
