"""The messages of an SQLite file as rosbag2 writes it, as far as they are whole."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vlm3_ros.offline.mcap_reader import Complaints, Declared

log = logging.getLogger(__name__)

LARGEST_ID = 1 << 62
JOURNALS = ("-wal", "-journal")  # behind the name of a database whose writer did not end


class Db3Reader:
    """A database. What cannot be read in it is said and left out. Raises OSError."""

    profile = ""

    def __init__(self, path: Path):
        self._path, self._complain = path, Complaints(path)
        self._database = _opened(path)
        self.declared: dict[int, Declared] = {}
        try:
            counts = self._counts()
            for number, *texts in self._ask("SELECT id, name, type, serialization_format FROM topics"):
                topic, kind, encoding = (text if isinstance(text, str) else "" for text in texts)
                self.declared[number] = Declared(topic, kind, encoding, counts[number])
            if nowhere := sum(count for number, count in counts.items() if number not in self.declared):
                self._complain(f"{nowhere} messages are of topics that are nowhere declared")
        except sqlite3.Error as error:
            self._complain(str(error))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, Any, bytes]]:
        """Time of recording in nanoseconds, place and data of each message, in the order of recording."""
        wanted, found, last = ",".join(str(int(number)) for number in channels), 0, (-1, -1)
        query = (
            f"SELECT timestamp, id, data FROM messages WHERE topic_id IN ({wanted}) "
            "AND typeof(timestamp) = 'integer' ORDER BY timestamp, id"
        )
        try:
            for time, number, data in self._ask(query):
                last, found = (time, number), found + 1
                yield time, number, bytes(data) if isinstance(data, bytes) else b""
        except sqlite3.Error as error:
            self._complain(f"{error}; it is read row by row")
            for time, number in sorted((t, n) for n, topic, t in self._rows() if topic in channels):
                if (time, number) > last:
                    try:
                        yield time, number, self.read(number)
                        found += 1
                    except ValueError:
                        continue
        if missing := sum(self.declared[number].count for number in channels) - found:
            self._complain(f"{missing} messages of {self.declared[next(iter(channels))].topic} cannot be read")

    def read(self, place: Any) -> bytes:
        """The data of a message. Raises ValueError where they cannot be had."""
        try:
            row = next(self._ask("SELECT data FROM messages WHERE id = ?", place), None)
        except sqlite3.Error as error:
            raise ValueError(str(error)) from error
        if row is None or not isinstance(row[0], bytes):
            raise ValueError("its data is not there")
        return row[0]

    # -------------------------------------------------------------------------------------------- damaged files

    def _counts(self) -> Counter[int]:
        """Messages by topic."""
        try:
            return Counter(dict(self._ask("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")))
        except sqlite3.Error as error:
            self._complain(
                f"{error}; what is whole is read, `sqlite3 {self._path} .recover | sqlite3 saved.db3` may save more"
            )
            return Counter(topic for _, topic, _ in self._rows())

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        """Number, topic and time of the messages in pages that can be read."""
        start: int | None = 0
        query = (
            "SELECT id, topic_id, timestamp FROM messages NOT INDEXED WHERE id >= ? "
            "AND typeof(topic_id) = 'integer' AND typeof(timestamp) = 'integer' ORDER BY id"
        )
        while start is not None:
            try:
                for row in self._ask(query, start):
                    yield row
                    start = row[0] + 1
                return
            except sqlite3.Error:
                start = self._behind(start)

    def _behind(self, broken: int) -> int | None:
        """The first number after one that cannot be read from which on it can be gone on; None if there is none."""
        step = 1
        while not self._goes_on(broken + step):
            step *= 2
            if broken + step > LARGEST_ID:
                return None
        low, high = broken + step // 2, broken + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._goes_on(middle) else (middle, high)
        return high

    def _goes_on(self, start: int) -> bool:
        try:
            next(self._ask("SELECT id, topic_id, timestamp FROM messages NOT INDEXED WHERE id >= ?", start), None)
        except sqlite3.Error:
            return False
        return True

    def _ask(self, query: str, *values: int) -> Iterator[Any]:
        return iter(self._database.execute(query, values))


def _opened(path: Path) -> sqlite3.Connection:
    """The database, to be read only; with what its writer has not brought into it yet, if that can be had."""
    journals = [journal for end in JOURNALS if (journal := Path(f"{path}{end}")).exists() and journal.stat().st_size]
    for how in ["mode=ro"] * bool(journals) + ["immutable=1"]:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode(errors="replace")
        database.execute("PRAGMA writable_schema = ON")  # reads a file that is shorter than it says it is, too
        try:
            database.execute("SELECT count(*) FROM sqlite_master")
            break
        except sqlite3.Error:
            if how != "mode=ro":
                break
    if journals and how != "mode=ro":
        log.warning(
            "%s was not closed, and what is in %s is not read: copy both into a folder that can be written to",
            path,
            journals[0].name,
        )
    return database
