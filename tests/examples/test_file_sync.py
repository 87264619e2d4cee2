"""File sync: what arrives is what was sent, and a chunk that was recorded is not sent again."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "holiday.raw: chunks stored: 14, SHA-256 7cff40530907667e",
    "letter.txt: chunks stored: 1, SHA-256 6b0fe0d861da0ec5",
    "song.flac: chunks stored: 7, SHA-256 2695cceff6fd84bd",
]
CHUNK_COUNTS = {"holiday.raw": 14, "letter.txt": 1, "song.flac": 7}
CHUNK_BYTES = 64 * 1024
SPEED = 12_000


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "received.log"
    }


def received(example: Example) -> Counter[tuple[str, int]]:
    """How often the server has written each chunk."""
    lines = (example.folder / "there" / "received.log").read_text().splitlines()
    return Counter((name, int(start) // CHUNK_BYTES + 1) for name, start in (line.split("/") for line in lines))


def assert_all_is_there(example: Example) -> None:
    assert checksums(example.folder / "there") == checksums(example.folder / "here")
    assert sorted(checksums(example.folder / "there")) == sorted(CHUNK_COUNTS)


def test_each_chunk_is_sent_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    example = Example("file_sync", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines[-3:] == RESULTS
    assert_all_is_there(example)
    sent = {(name, number): 1 for name, count in CHUNK_COUNTS.items() for number in range(1, count + 1)}
    assert received(example) == sent
    assert lines.count("the server: a chunk was damaged on its way") == 1
    assert example.run() == RESULTS  # run again it sends nothing
    assert received(example) == sent


def test_an_edited_file_is_sent_anew_and_replaces_the_old_one(tmp_path: Path) -> None:
    example = Example("file_sync", tmp_path, speed=SPEED)
    example.run()
    (example.folder / "here" / "letter.txt").write_text("a shorter letter")
    assert example.run()[-2].startswith("letter.txt: chunks stored: 1")
    assert_all_is_there(example)
    assert received(example)["letter.txt", 1] == 2
    assert received(example)["song.flac", 1] == 1


@pytest.mark.parametrize("number", [1, 6, 14])
def test_a_killed_upload_goes_on_at_its_chunk(number: int, tmp_path: Path) -> None:
    example = Example("file_sync", tmp_path, speed=SPEED)
    example.kill_at(f"holiday.raw: chunk {number} of 14")
    again = example.run()
    assert again[-3:] == RESULTS
    assert_all_is_there(example)
    # Only the chunk whose answer was not recorded yet, of the two files that were on their way, may come twice.
    twice = [chunk for chunk, count in received(example).items() if count > 1]
    assert len(twice) <= 2
    assert not [chunk for chunk in twice if chunk[0] == "holiday.raw" and chunk[1] < number]
    assert not [line for line in again if line == f"holiday.raw: chunk {number - 1} of 14 is there"]


def test_an_upload_comes_through_four_kills(tmp_path: Path) -> None:
    example = Example("file_sync", tmp_path, speed=SPEED)
    for number in (2, 5, 9, 13):
        example.kill_at(f"holiday.raw: chunk {number} of 14")
    assert example.run()[-3:] == RESULTS
    assert_all_is_there(example)
    sent_again = sum(received(example).values()) - sum(CHUNK_COUNTS.values())
    assert sent_again <= 4 * 2  # two files are on their way at a time
