#!/bin/sh
# A role and a database for each password in /passwords, named like its file; nobody else may connect to it.
# The server's image runs this once, when its disk is new. Run by hand it adds what is missing.
set -eu
passwords=${PASSWORDS:-/passwords}
for file in "$passwords"/*; do
  name=$(basename "$file")
  [ "$name" != postgres ] || continue
  psql -X -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres -v name="$name" -v password="$(cat "$file")" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
