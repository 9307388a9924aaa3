"""Dialogues with the lengths that real ones have: most are short, and a few fill the window."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

_SPREAD = 1.0
"""Standard deviation of the logarithm of the length. With it the mean is 1.65 times the median, and one dialogue in a
hundred is ten times as long as the median; so it is in collections of chats (ShareGPT's replies, OpenAssistant's trees
and WildChat's dialogues all have means well above their medians)."""
_LONGEST_SHARE = 0.9
"""Longest dialogue that is drawn, as a share of the window: text has more tokens in some places than in others."""
_TURN_TOKENS = 150
"""Tokens of a usual turn."""
_MARKUP_TOKENS = 8


def write_dialogues(
    path: Path, text: str, *, num_dialogues: int, median: int, window: int, bytes_per_token: float, seed: int
) -> None:
    """Writes dialogues between a user and an assistant as JSON lines `{"messages"}`.

    Lengths are log-normal around the median and end below the window. What is said are pieces of the text: for speed
    only their number of tokens matters.

    Args:
        path: File to write.
        text: What turns are cut from; it is longer than the longest dialogue.
        num_dialogues: How many.
        median: Median length in tokens.
        window: Longest sequence in tokens.
        bytes_per_token: Text that makes a token on average.
        seed: Seed of all that is chosen by chance.
    """
    chosen = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_dialogues):
            length = min(median * math.exp(_SPREAD * chosen.gauss(0, 1)), _LONGEST_SHARE * window)
            num_turns = 2 * max(1, round(length / _TURN_TOKENS / 2))
            num_characters = max(8, int((length / num_turns - _MARKUP_TOKENS) * bytes_per_token))
            messages = []
            for turn in range(num_turns):
                start = chosen.randrange(max(1, len(text) - num_characters))
                said = text[start : start + num_characters].strip() or "yes"
                messages.append({"role": "assistant" if turn % 2 else "user", "content": said})
            file.write(json.dumps({"messages": messages, "source": "benchmark", "origin": "benchmark"}) + "\n")
