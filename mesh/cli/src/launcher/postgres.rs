//! The databases of a system on a PostgreSQL server: one per service, made when they are not there.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::failure::{Exit, Failure};
use crate::launcher::plan::Plan;

/// Connections that a service's log holds at most: its three pools (`services/ledger/src/store/postgres.rs`).
const OF_A_LOG: u32 = 14;
/// What each coordinator holds beside that, for its leases.
const OF_LEASES: u32 = 2;
/// What the bank of each payments process holds beside that.
const OF_A_BANK: u32 = 4;

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
    let allowed = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int",
    );
    let allowed: i32 = allowed
        .fetch_one(&mut server)
        .await
        .context("cannot read how many connections PostgreSQL allows")?;
    check_connections(plan, u32::try_from(allowed).unwrap_or(0))?;
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

/// Refuses more processes than the server has connections for: under load some of them would wait for theirs without end.
fn check_connections(plan: &Plan, allowed: u32) -> Result<(), Failure> {
    let of = |&(service, count): &(&str, u32)| match service {
        "gateway" => 0,
        "coordinator" => count * (OF_A_LOG + OF_LEASES),
        "payments" => count * (OF_A_LOG + OF_A_BANK),
        _ => count * OF_A_LOG,
    };
    let wanted: u32 = plan.replicas.iter().map(of).sum();
    if wanted <= allowed {
        return Ok(());
    }
    let message = format!(
        "PostgreSQL allows {allowed} connections, and these processes take up to {wanted} under load"
    );
    Err(Failure::new(Exit::Refused, message).hint(
        "Raise max_connections (ALTER SYSTEM SET max_connections = 300, and restart the server), or run fewer replicas.",
    ))
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
    fn a_server_with_too_few_connections_is_refused() -> Result<(), Failure> {
        let plan = |count| Plan::new(&[], &[("payments".into(), count)], true);
        // What a server allows by default.
        check_connections(&plan(1)?, 97)?;
        check_connections(&plan(2)?, 97)?;
        let refused = check_connections(&plan(3)?, 97).err();
        let message = refused.map(|failure| failure.message);
        assert_eq!(
            message.as_deref(),
            Some("PostgreSQL allows 97 connections, and these processes take up to 112 under load")
        );
        Ok(())
    }

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
