"""Word problems with worked solutions. The wrong one takes the wrong operation, misreads a number, or slips in the sum.

Each story exists in two readings (things added or things repeated, taken away or shared out), told with the same words and numbers as far as possible, so
that the operation follows from the story and not from the answer.
"""

import random

NAMES = ["Ada", "Ben", "Chloe", "Dev", "Ella", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Luca", "Mina", "Noah", "Olga", "Pavel", "Rosa", "Sami", "Tara", "Viktor"]
THINGS = ["pens", "apples", "stickers", "marbles", "books", "tickets", "coins", "cookies", "stamps", "buttons", "candles", "cards", "shells", "beads", "plums", "eggs"]
HOLDERS = ["boxes", "bags", "jars", "shelves", "baskets", "drawers", "trays", "crates"]
PLACES = ["at the market", "in the attic", "at school", "in the garden shed", "at the fair", "in the kitchen", "on the train", "at the library"]

OPENERS = ["", "Let us go step by step. ", "First look at what is given. ", "Here is the working. "]
CLOSERS = ["The answer is {0}.", "So the answer is {0}.", "That makes {0}.", "Answer: {0}"]

Story = tuple[str, str, list[tuple[str, int, int]]]


def truth(operations: list[tuple[str, int, int]]) -> int:
    """The result of the last operation, each done for real."""
    results = [{"plus": a + b, "minus": a - b, "times": a * b, "divided by": a // b if b else 0}[name] for name, a, b in operations]
    return results[-1]


def story(rng: random.Random) -> tuple[str, list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """(problem, right operations, operations of the twin story with the same numbers)."""
    name, thing, holder, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(HOLDERS), rng.choice(PLACES)
    a, b = rng.randint(3, 12), rng.randint(3, 12)
    c = rng.randint(2, min(9, a + b - 1))
    kind = rng.randrange(6)
    if kind == 0:
        text = f"{name} has {a} {holder} {place}. Each of them holds {b} {thing}. How many {thing} does {name} have?"
        return text, [("times", a, b)], [("plus", a, b)]
    if kind == 1:
        text = f"{name} has {a} {thing} {place} and finds {b} more. How many {thing} does {name} have?"
        return text, [("plus", a, b)], [("times", a, b)]
    if kind == 2:
        text = f"{place.capitalize()}, {name} packs {b} {thing} into every one of {a} {holder}, then gives away {c}. How many {thing} are left?"
        return text, [("times", a, b), ("minus", a * b, c)], [("plus", a, b), ("minus", a + b, c)]
    if kind == 3:
        text = f"{place.capitalize()}, {name} puts {a} {thing} with {b} other {thing}, then gives away {c}. How many {thing} are left?"
        return text, [("plus", a, b), ("minus", a + b, c)], [("times", a, b), ("minus", a * b, c)]
    if kind == 4:
        total = a * b
        text = f"{name} shares {total} {thing} equally among {a} friends {place}. How many {thing} does each friend get?"
        return text, [("divided by", total, a)], [("minus", total, a)]
    total = a * b
    text = f"{name} had {total} {thing} and lost {a} of them {place}. How many {thing} does {name} have now?"
    return text, [("minus", total, a)], [("divided by", total, a)]


def worked(rng: random.Random, operations: list[tuple[str, int, int]], slip: int = 0) -> str:
    """A worked solution; ``slip`` is added to the last result."""
    lines = []
    for i, (name, a, b) in enumerate(operations):
        result = truth([(name, a, b)]) + (slip if i == len(operations) - 1 else 0)
        lines.append(f"{a} {name} {b} is {result}.")
    final = truth(operations) + slip
    return rng.choice(OPENERS) + " ".join(lines) + " " + rng.choice(CLOSERS).format(final)


def misread(rng: random.Random, operations: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The same operations with the first number misread."""
    name, a, b = operations[0]
    wrong = b + rng.choice([-2, -1, 1, 2, 3])
    first = (name, a * wrong if name == "divided by" else a, a if name == "divided by" else max(2, wrong))
    rest = [(n, truth([first]), d) for n, _, d in operations[1:]]
    return [first, *rest]


def check(operations: list[tuple[str, int, int]], answer: str) -> bool:
    """Whether the last number of ``answer`` is the result of ``operations``."""
    numbers = [int(word.strip(".")) for word in answer.replace("Answer:", "").split() if word.strip(".").lstrip("-").isdigit()]
    return numbers[-1] == truth(operations)


def make(rng: random.Random) -> dict[str, str] | None:
    """One checked pair; None if the error happens to give the right result."""
    problem, right, twin = story(rng)
    mistake = rng.choices(["operation", "misread", "slip"], [8, 2, 1])[0]
    wrong = {"operation": twin, "misread": misread(rng, right), "slip": right}[mistake]
    chosen = worked(rng, right)
    rejected = worked(rng, wrong, rng.choice([-10, -2, -1, 1, 2, 10]) if mistake == "slip" else 0)
    if not check(right, chosen) or check(right, rejected):
        return None
    return {"prompt": problem, "chosen": chosen, "rejected": rejected, "error": mistake}
