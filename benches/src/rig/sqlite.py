"""Does with the gateway's database file what standard input says, a command a line, and answers each with `done`."""

import sqlite3
import sys

database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.create_function("id_of", 1, lambda number: number.to_bytes(16, "big"))


def hold():
    database.execute("BEGIN IMMEDIATE")


def release():
    database.execute("ROLLBACK")


def fill(events):
    """Copies of an event that is there, under ids that rise, as those of real requests do."""
    columns = [row[1] for row in database.execute("PRAGMA table_info(usage_event)")]
    copied = ", ".join("id_of(number)" if column == "request_id" else column for column in columns)
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        f"""WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)
            INSERT INTO usage_event ({", ".join(columns)}) SELECT {copied} FROM numbers,
            (SELECT * FROM usage_event ORDER BY request_id DESC LIMIT 1)""",
        (int(events),),
    )
    database.execute("COMMIT")


commands = {"hold": hold, "release": release, "fill": fill}
for line in sys.stdin:
    name, *arguments = line.split()
    commands[name](*arguments)
    print("done", flush=True)
