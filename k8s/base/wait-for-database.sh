#!/bin/sh
# Ends well once the database of $SAGAMESH_DATABASE_URL takes this service's role and is new enough; until then it says why not.
# The tables are the service's own doing: it makes or changes them at its start, one replica after the other.
set -eu
oldest=${OLDEST_POSTGRES:-15}
pause=${PAUSE:-0.5}
said=

say() {
  # Once for each reason, not twice a second.
  if [ "$1" != "$said" ]; then
    said=$1
    echo "$1" >&2
  fi
}

while :; do
  if version=$(PGCONNECT_TIMEOUT=3 psql "$SAGAMESH_DATABASE_URL" -XAtc "SELECT current_setting('server_version_num')::int / 10000" 2>&1); then
    if [ "$version" -ge "$oldest" ]; then
      echo "the database answers (PostgreSQL $version)"
      exit 0
    fi
    say "the database is PostgreSQL $version, which is too old: $oldest or newer is needed; upgrade the server, or name another one in the Secret"
  else
    # Never the URL: it holds the password.
    reason=$(echo "$version" | head -n 1)
    case $version in
      *'password authentication failed'* | *'no password supplied'* | *'role '*' does not exist'*)
        say "the database refuses this service's role: correct the user or the password in the Secret, or make the role ($reason)" ;;
      *'database '*' does not exist'*)
        say "the server has no such database: make it, owned by this service's role, or correct the Secret ($reason)" ;;
      *'permission denied for database'*)
        say "the database is not for this service's role: each has its own; correct the Secret, or grant CONNECT ($reason)" ;;
      *'too many clients'* | *'remaining connection slots'* | *'too many connections'*)
        say "the server has no connection left: raise its max_connections, or run fewer replicas ($reason)" ;;
      *'could not translate host name'*)
        say "the name of the database's host is not known: correct the Secret, or start the database ($reason)" ;;
      *'no pg_hba.conf entry'*)
        say "the server does not let this pod in: allow its network, or add sslmode=require to the URL ($reason)" ;;
      *)
        say "waiting for the database: check that it runs and that the NetworkPolicy lets this pod reach it ($reason)" ;;
    esac
  fi
  sleep "$pause"
done
