"""Small Python expressions and what they print: the one skill that the quickstart's tuning teaches.

Expressions are drawn from families by weight. Whether one belongs to the training or the test split is decided
by its own digest, so no test expression is ever trained on, whatever the seeds. What an expression prints is found
by evaluating it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Literal, NamedTuple

from lemur.errors import RecipeError

Split = Literal["train", "test"]

_TEST_SHARE_OF_256 = 51
"""One expression in five is held out."""
_TRIES = 200
"""Draws in a row that bring nothing new before a family counts as used up."""
_BUILTINS = {"len": len, "max": max, "min": min}
_WORDS = ("red", "blue", "cat", "dog", "one", "two", "key", "name", "file", "list", "data", "self")


class Expression(NamedTuple):
    """One question with its answer."""

    prompt: str
    """What is asked: a `print` of the expression, and nothing else. Short, since every token of a dialogue is read
    in training and only the answer teaches."""
    completion: str
    """What it prints, without the newline."""
    family: str
    """Name of the family it was drawn from."""

    @property
    def code(self) -> str:
        """The line of code in the prompt."""
        return self.prompt


class Family(NamedTuple):
    """A kind of expression."""

    draw: Callable[[Random], str]
    """Returns the source of one expression."""
    weight: float
    """Share of the expressions, relative to the other families."""


def _comparison(random: Random) -> str:
    operator = random.choice(("<", ">", "<=", ">=", "==", "!="))
    return f"{random.randrange(10)} {operator} {random.randrange(10)}"


def _boolean(random: Random) -> str:
    first, second, third = (random.choice(("True", "False", "not True", "not False")) for _ in range(3))
    return f"{first} {random.choice(('and', 'or'))} {second} {random.choice(('and', 'or'))} {third}"


def _membership(random: Random) -> str:
    return f"{random.randrange(10)} {random.choice(('in', 'not in'))} {_digits(random, 2, 4)}"


def _list_index(random: Random) -> str:
    digits = _digits(random, 2, 3)
    return f"{digits}[{random.choice((0, 1, -1))}]"


def _word_index(random: Random) -> str:
    words = random.sample(_WORDS, random.randint(2, 3))
    return f"[{', '.join(repr(word) for word in words)}]".replace("'", '"') + f"[{random.choice((0, 1, -1))}]"


def _list_length(random: Random) -> str:
    return f"len({_digits(random, 1, 6)})"


def _extreme(random: Random) -> str:
    digits = ", ".join(str(random.randrange(10)) for _ in range(random.randint(2, 3)))
    return f"{random.choice(('min', 'max'))}({digits})"


def _conditional(random: Random) -> str:
    first, second = random.sample(_WORDS, 2)
    return f'"{first}" if {_comparison(random)} else "{second}"'


def _digits(random: Random, shortest: int, longest: int) -> str:
    return str([random.randrange(10) for _ in range(random.randint(shortest, longest))])


FAMILIES: Mapping[str, Family] = {
    "list_length": Family(_list_length, 2.0),
    "comparison": Family(_comparison, 2.0),
    "membership": Family(_membership, 2.0),
    "extreme": Family(_extreme, 2.0),
    "list_index": Family(_list_index, 2.0),
    "word_index": Family(_word_index, 2.0),
    "conditional": Family(_conditional, 1.0),
    "boolean": Family(_boolean, 1.0),
}
"""Every family by name: what a very small model can learn in a minute, the harder ones with less weight."""


def split_of(source: str) -> Split:
    """Returns the split that the source of an expression belongs to, decided by its SHA-256."""
    return "test" if hashlib.sha256(source.encode()).digest()[0] < _TEST_SHARE_OF_256 else "train"


def generate(split: Split, num_expressions: int, *, seed: int) -> Iterator[Expression]:
    """Yields different expressions of one split, the same ones for the same seed.

    Args:
        split: `train` or `test`; no expression is in both.
        num_expressions: How many. A family that has no more new ones leaves its share to the others.
        seed: Seed of the draw.

    Raises:
        RecipeError: There are not that many expressions in the split.
    """
    random = Random(seed)
    families = dict(FAMILIES)
    seen: set[str] = set()
    while len(seen) < num_expressions:
        if not families:
            raise RecipeError(
                f"the {split} split has no more than about {len(seen):,} different expressions, and "
                f"{num_expressions:,} were asked for; ask for fewer"
            )
        (name,) = random.choices(list(families), [family.weight for family in families.values()])
        source = _new_source(families[name], split, seen, random)
        if source is None:
            del families[name]
            continue
        seen.add(source)
        yield Expression(f"print({source})", evaluate(source), name)


def evaluate(source: str) -> str:
    """Returns what printing an expression of ours shows.

    Only sources made in this module are passed here, and nothing but a few builtins is within their reach.
    """
    return str(eval(source, {"__builtins__": _BUILTINS}))


def _new_source(family: Family, split: Split, seen: set[str], random: Random) -> str | None:
    for _ in range(_TRIES):
        source = family.draw(random)
        if source not in seen and split_of(source) == split:
            return source
    return None
