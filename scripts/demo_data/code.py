"""Small functions, and mutants of them that are right for another request; both are run against tests."""

import random
from collections.abc import Callable
from typing import Any

LIST, WORDS, TEXT, NUMBER = "list", "words", "text", "number"

# (what it takes, request, body) in families: within a family the body of one is a mutant of the others.
FAMILIES: list[list[tuple[str, str, str]]] = [
    [(LIST, "the largest number of a list", "return max({x})"), (LIST, "the smallest number of a list", "return min({x})"), (LIST, "the sum of a list of numbers", "return sum({x})"), (LIST, "how many numbers a list has", "return len({x})")],
    [(LIST, "the even numbers of a list, in order", "return [{i} for {i} in {x} if {i} % 2 == 0]"), (LIST, "the odd numbers of a list, in order", "return [{i} for {i} in {x} if {i} % 2 == 1]"), (LIST, "the positive numbers of a list, in order", "return [{i} for {i} in {x} if {i} > 0]"), (LIST, "the negative numbers of a list, in order", "return [{i} for {i} in {x} if {i} < 0]")],
    [(LIST, "a list sorted from low to high", "return sorted({x})"), (LIST, "a list sorted from high to low", "return sorted({x}, reverse=True)"), (LIST, "a list in reverse order", "return list(reversed({x}))"), (LIST, "a list without repeated numbers, the first of each kept", "return list(dict.fromkeys({x}))")],
    [(LIST, "the first number of a list", "return {x}[0]"), (LIST, "the last number of a list", "return {x}[-1]"), (LIST, "the number in the middle of a list, the later one if there are two", "return {x}[len({x}) // 2]")],
    [(LIST, "the squares of the numbers of a list", "return [{i} * {i} for {i} in {x}]"), (LIST, "the doubles of the numbers of a list", "return [2 * {i} for {i} in {x}]"), (LIST, "the numbers of a list with their signs changed", "return [-{i} for {i} in {x}]"), (LIST, "the numbers of a list, each raised by one", "return [{i} + 1 for {i} in {x}]")],
    [(WORDS, "a list of words joined by commas", "return ','.join({x})"), (WORDS, "a list of words joined by spaces", "return ' '.join({x})"), (WORDS, "a list of words joined by dashes", "return '-'.join({x})")],
    [(WORDS, "the lengths of a list of words", "return [len({i}) for {i} in {x}]"), (WORDS, "the first letters of a list of words", "return [{i}[0] for {i} in {x}]"), (WORDS, "the last letters of a list of words", "return [{i}[-1] for {i} in {x}]"), (WORDS, "a list of words, each written backwards", "return [{i}[::-1] for {i} in {x}]")],
    [(WORDS, "the words of a list that begin with the letter a", "return [{i} for {i} in {x} if {i}.startswith('a')]"), (WORDS, "the words of a list that end with the letter a", "return [{i} for {i} in {x} if {i}.endswith('a')]"), (WORDS, "the words of a list that contain the letter a", "return [{i} for {i} in {x} if 'a' in {i}]"), (WORDS, "the words of a list that lack the letter a", "return [{i} for {i} in {x} if 'a' not in {i}]")],
    [(TEXT, "a text in capital letters", "return {x}.upper()"), (TEXT, "a text in small letters", "return {x}.lower()"), (TEXT, "a text with capitals and small letters exchanged", "return {x}.swapcase()"), (TEXT, "a text with the first letter of each word in capitals", "return {x}.title()")],
    [(TEXT, "a text without its spaces", "return {x}.replace(' ', '')"), (TEXT, "a text with its spaces turned into underscores", "return {x}.replace(' ', '_')"), (TEXT, "a text without its vowels", "return ''.join({i} for {i} in {x} if {i} not in 'aeiouAEIOU')"), (TEXT, "a text written backwards", "return {x}[::-1]")],
]

INPUTS: dict[str, list[Any]] = {
    LIST: [[3, -1, 4, 1, -5, 9, 2, 6, 3], [-2, -8, -3, -7], [5, 12, 7, 10], [8, 3, 8, -4, 0, 3, 11]],
    WORDS: [["pear", "fig", "banana", "avocado", "kiwi"], ["delta", "alpha", "bravo", "echo", "amoeba"], ["stone", "tree", "idea"]],
    TEXT: ["The quick brown Fox", "a b a c", "rain in Spain in May", "To be or not to be"],
    NUMBER: [12, 7, 30, 485, 96],
}

PARAMETERS = {LIST: ["numbers", "values", "items", "xs"], WORDS: ["words", "names", "items", "terms"], TEXT: ["text", "s", "line", "string"], NUMBER: ["n", "number", "value", "k"]}
REQUESTS = ["Write a Python function `{f}` that returns {what}.", "I need a Python function called `{f}`. It should return {what}.", "Please implement `{f}` in Python: it returns {what}.", "How would you write a function `{f}` in Python that gives back {what}?", "Python task: `{f}` takes {kind} and returns {what}."]
KINDS = {LIST: "a list of numbers", WORDS: "a list of words", TEXT: "a text", NUMBER: "a whole number"}
NAMES = ["solve", "compute", "process", "transform", "answer", "result_of", "handle", "apply_rule", "work_out", "evaluate", "run_task", "get_result"]
BEFORE = ["", "Here is the function.\n\n", "Sure, this does it:\n\n", "One way to write it:\n\n"]
AFTER = ["", "\n\nIt uses only built-in functions.", "\n\nIt takes one argument and returns the result.", "\n\nCall it with the value you want to check."]


def source(rng: random.Random, kind: str, body: str, function: str) -> str:
    """The code of a function, with names drawn at random."""
    x, i, t = rng.choice(PARAMETERS[kind]), rng.choice(["i", "v", "e", "item"]), rng.choice(["total", "acc", "r"])
    lines = body.format(x=x, i=i, t=t).split("\n")
    return f"def {function}({x}):\n" + "\n".join("    " + line for line in lines)


def outputs(code: str, function: str, kind: str) -> list[Any]:
    """What a function returns for every test input."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    call: Callable[[Any], Any] = namespace[function]
    return [(type(result).__name__, result) for result in (call(value) for value in INPUTS[kind])]


def make(rng: random.Random) -> dict[str, str] | None:
    """One checked pair: a function that passes the tests of the request, and one that does not."""
    family = rng.choice(FAMILIES)
    (kind, what, body), (_, _, mutant) = rng.sample(family, 2)
    function = rng.choice(NAMES)
    right, wrong = source(rng, kind, body, function), source(rng, kind, mutant, function)
    if outputs(right, function, kind) == outputs(wrong, function, kind):
        return None
    prompt = rng.choice(REQUESTS).format(f=function, what=what, kind=KINDS[kind])
    return {"prompt": prompt, "chosen": dressed(rng, right), "rejected": dressed(rng, wrong), "error": "mutant"}


def dressed(rng: random.Random, code: str) -> str:
    """Code in a fence, with or without a sentence before and after it."""
    return f"{rng.choice(BEFORE)}```python\n{code}\n```{rng.choice(AFTER)}"
