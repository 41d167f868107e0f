"""The scripts that pods run, against a real PostgreSQL server: what they do, and what they say when it does not go."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, not_run, postgres_bin

WAIT = ROOT / "k8s/base/wait-for-database.sh"
CREATE = ROOT / "k8s/components/postgres/create-databases.sh"


def as_nobody():
    """PostgreSQL does not run as root."""
    return {} if os.getuid() else {"user": pwd.getpwnam("nobody").pw_uid, "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def server():
    """A server with passwords, and two databases that the script made."""
    programs = postgres_bin()
    if not programs or not shutil.which("psql"):
        not_run("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="sagamesh-k8s-") as folder:
        folder = Path(folder)
        user = as_nobody()
        if user:
            os.chown(folder, user["user"], user["group"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        run = lambda *command: subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, **user)
        run(programs / "initdb", "-D", folder / "data", "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(programs / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
        try:
            passwords = folder / "passwords"
            passwords.mkdir()
            for name, password in (("postgres", "unused"), ("orders", "it's $one"), ("payments", "two")):
                (passwords / name).write_text(password)
            environment = os.environ | {"PASSWORDS": str(passwords), "PGHOST": str(folder), "PGPORT": port}
            for _ in range(2):  # The second time changes nothing.
                subprocess.run(["sh", CREATE], check=True, env=environment, timeout=60)
            yield port
        finally:
            run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")


def url(port, user="orders", password="it's%20$one", database="orders"):
    return f"postgres://{user}:{password}@127.0.0.1:{port}/{database}"


def wait(address, **environment):
    """Runs the script; one that goes on waiting is ended, and what it said is what counts."""
    environment = os.environ | {"SAGAMESH_DATABASE_URL": address, "PAUSE": "0.05"} | environment
    process = subprocess.Popen(["sh", WAIT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    said = process.stderr.readline()
    if process.poll() is None and said:
        os.killpg(process.pid, 15)
    rest = process.communicate(timeout=30)
    return process.returncode, said + rest[1], rest[0]


def test_it_ends_when_the_database_answers(server):
    code, complaint, said = wait(url(server))
    assert (code, complaint) == (0, "") and "answers" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"password": "wrong"}, "correct the user or the password in the Secret"),
        ({"database": "nowhere"}, "the server has no such database: make it"),
        ({"database": "payments"}, "the database is not for this service's role"),
    ],
)
def test_refusals_say_what_to_do(server, change, sentence):
    code, complaint, _ = wait(url(server, **change))
    assert code != 0 and sentence in complaint
    assert "one" not in complaint.split("(")[0], "a password in the log"


def test_a_server_that_is_away_is_waited_for():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, complaint, _ = wait(url(closed.getsockname()[1]))
    assert code != 0 and "check that it runs" in complaint


def test_a_host_that_nobody_knows_is_named():
    code, complaint, _ = wait("postgres://orders:x@nowhere.invalid/orders")
    assert code != 0 and "the name of the database's host is not known" in complaint


def test_an_old_server_is_refused(server):
    code, complaint, _ = wait(url(server), OLDEST_POSTGRES="99")
    assert code != 0 and "too old: 99 or newer is needed" in complaint


def test_the_role_may_make_its_tables(server):
    statement = "CREATE SCHEMA orders; CREATE TABLE orders.t (x int); DROP SCHEMA orders CASCADE"
    subprocess.run(["psql", url(server), "-Xqc", statement], check=True, capture_output=True, timeout=30)
