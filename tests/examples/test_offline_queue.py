"""The offline queue: the server gets each message once and in order, and no photo too many, wherever it is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.kit import Example

RESULTS = [
    "message 1: delivered",
    "message 2: delivered",
    "message 3: delivered",
    "message 4: it is too long",
    "message 5: delivered",
]
SPEED = 7200


def assert_the_server_has_the_messages(example: Example) -> None:
    done = example.rows("server.db", "SELECT key, action, body FROM done ORDER BY rowid")
    messages = [json.loads(row["body"]) for row in done if row["action"] == "send"]
    assert [(number, text) for number, text, _ in messages] == [
        (1, "Are you there?"),
        (2, "We have arrived."),
        (3, "The boat leaves at nine."),
        (5, "I cut the story short."),
    ]
    photos = {row["key"]: row["body"] for row in done if row["action"] == "upload"}
    assert list(photos.values()) == [b"the harbour", b"the captain", b"the sunset"]
    withdrawn = [photos.pop(row["body"].decode()) for row in done if row["action"] == "withdraw"]
    assert withdrawn == [b"the captain"], "not the refused message's photo, or not once"
    assert list(photos) == [media for _, _, media in messages if media is not None]


def test_messages_are_delivered_in_order_or_refused(tmp_path: Path) -> None:
    example = Example("offline_queue", tmp_path, speed=SPEED)
    lines = example.run()
    assert lines == [
        "outbox: 5 messages to send, and the server is down",
        "server: up",
        "anna-1: send is done",
        "anna-2: upload is done",
        "anna-2: send is done",
        "server: takes something, and the line breaks before it can say so",  # message 3: it is sent again, taken once
        "anna-3: send is done",
        "anna-4: upload is done",
        "anna-4: withdraw is done",
        "anna-5: upload is done",
        "anna-5: send is done",
        *RESULTS,
    ]
    assert_the_server_has_the_messages(example)
    again = example.run()
    assert again[0] == "outbox: 0 messages to send, and the server is down"
    assert again[-5:] == RESULTS
    assert_the_server_has_the_messages(example)


@pytest.mark.parametrize(
    "places",
    [
        ["anna-1: send is done", "anna-2: send is done", "anna-4: upload is done", "anna-5: send is done"],
        ["anna-2: upload is done", "server: takes something", "anna-4: withdraw is done", "message 5: delivered"],
    ],
    ids=["first", "second"],
)
def test_killed_at_many_places_it_loses_and_repeats_nothing(places: list[str], tmp_path: Path) -> None:
    example = Example("offline_queue", tmp_path, speed=SPEED)
    assert "Stopped. The same command goes on from here." in example.interrupt_at("server: up")
    for place in places:
        example.kill_at(place)
    assert example.run()[-5:] == RESULTS
    assert_the_server_has_the_messages(example)
