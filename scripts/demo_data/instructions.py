"""Instructions with constraints that a program checks: the subject, a word to use, a word to avoid, the form, the number of sentences, the ending.

The wrong answer breaks exactly one constraint, and is what another prompt asks for.
"""

import random
import re

SUBJECTS = {
    "bicycles": ["A bicycle turns muscle power into motion with little loss.", "The chain carries force from the pedals to the rear wheel.", "Thin tyres roll fast on smooth roads.", "Gears make steep hills easier to climb.", "Many cities now build lanes for bicycles.", "A bicycle needs little space to park."],
    "tea": ["Tea is made from the leaves of one evergreen shrub.", "Green tea is heated soon after the leaves are picked.", "Black tea is left to oxidise before it is dried.", "Water that is too hot makes tea bitter.", "Tea came to Europe with merchant ships.", "A pot of tea is often shared among guests."],
    "volcanoes": ["A volcano is an opening through which molten rock escapes.", "Lava cools into dark and fertile ground.", "Ash from a volcano can travel around the globe.", "Some volcanoes sleep for thousands of years.", "Scientists listen for tremors below a volcano.", "Islands such as Iceland were built by volcanoes."],
    "bees": ["Bees carry pollen from flower to flower.", "A hive of bees has one queen and many workers.", "Bees dance to tell others where food is.", "Honey keeps for years without spoiling.", "Bees see colours that people cannot see.", "A cold spring is hard on bees."],
    "libraries": ["A library lends books to anyone with a card.", "Quiet rooms in a library invite people to read.", "Librarians help visitors find sources.", "Old libraries keep maps and letters as well.", "Many libraries now lend music and films.", "Children hear stories at the library."],
    "glaciers": ["A glacier is a river of ice that moves very slowly.", "Glaciers carve wide valleys into rock.", "The ice of a glacier holds air from long ago.", "In summer a glacier feeds streams with water.", "Cracks in a glacier can be deep and dangerous.", "Most glaciers are shrinking today."],
    "chess": ["Chess is played on a board of sixty-four squares.", "In chess the queen is the strongest piece.", "A game of chess ends when the king cannot escape.", "Chess openings have been studied for centuries.", "Good chess players plan several moves ahead.", "Computers now play chess better than people."],
    "bread": ["Bread needs flour, water, salt and time.", "Yeast makes bread rise by giving off gas.", "Kneading gives bread its chewy structure.", "A hot oven makes a crisp crust on bread.", "Stale bread is good for soups and puddings.", "Every region has its own kind of bread."],
    "whales": ["Whales are mammals that breathe air.", "Some whales sing songs that travel far under water.", "The blue whale is the largest animal there is.", "Whales feed in cold seas and breed in warm ones.", "A young whale drinks milk for months.", "Whales were once hunted for their oil."],
    "bridges": ["A bridge carries a road over water or a valley.", "Arch bridges press their weight outwards to the banks.", "Suspension bridges hang from long steel cables.", "Engineers test how a bridge sways in the wind.", "Stone bridges from Roman times still stand.", "Some bridges open to let ships pass."],
    "clouds": ["Clouds are made of tiny drops of water or ice.", "High thin clouds often bring a change of weather.", "Dark clouds are thick and full of rain.", "Clouds cool the ground by day and warm it by night.", "Fog is a cloud that touches the ground.", "Pilots learn to read the shape of clouds."],
    "trains": ["Trains run on rails of steel.", "A train can carry hundreds of people at once.", "Electric trains draw power from a wire.", "Night trains have beds for long journeys.", "Freight trains move goods across a continent.", "The first trains were driven by steam."],
    "gardens": ["A garden gives food, shade and calm.", "Compost feeds the soil of a garden.", "Herbs grow well even in a small garden.", "A hedge protects a garden from wind.", "Birds visit a garden with water and seeds.", "Weeds grow fast in a garden after rain."],
    "clocks": ["A clock divides the day into equal parts.", "Pendulum clocks were the best for centuries.", "Atomic clocks lose a second in millions of years.", "Sailors needed good clocks to know where they were.", "A sundial is a clock that needs no winding.", "Railways made towns set their clocks alike."],
}
WORDS = ["remarkable", "ordinary", "ancient", "modern", "gentle", "sturdy", "curious", "simple", "hidden", "famous", "quiet", "bright"]
WITH_WORD = ["It is a {w} thing to think about.", "There is something {w} about it.", "People find this {w}.", "One could call that {w}.", "To many this seems {w}."]
QUESTIONS = ["What would you like to know next?", "Have you seen this yourself?", "Is that not worth a closer look?", "What do you think about it?"]
STATEMENTS = ["That is the short version.", "There is much more to say.", "This is only the beginning.", "So much for the basics."]
ASK = ["Write about {s}.", "Tell me something about {s}.", "Give me a short text on {s}.", "I would like to read about {s}.", "Describe {s} for a newcomer."]

Spec = dict[str, str | int]


def answer(rng: random.Random, spec: Spec) -> str:
    """A text that keeps every constraint of ``spec``."""
    sentences = rng.sample(SUBJECTS[str(spec["subject"])], int(spec["sentences"]) - 2)
    sentences.append(rng.choice(WITH_WORD).format(w=spec["word"]))
    rng.shuffle(sentences)
    sentences.append(rng.choice(QUESTIONS if spec["ending"] == "question" else STATEMENTS))
    return "\n".join(f"- {s}" for s in sentences) if spec["form"] == "list" else " ".join(sentences)


def check(spec: Spec, avoid: str, text: str) -> bool:
    """Whether ``text`` keeps every constraint of ``spec`` and does without the word to avoid."""
    sentences = re.findall(r"[^.?!]+[.?!]", text)
    about = sum(s.strip("- \n") in SUBJECTS[str(spec["subject"])] for s in sentences)
    return (
        len(sentences) == spec["sentences"]
        and about == int(spec["sentences"]) - 2
        and f" {spec['word']}" in text
        and f" {avoid}" not in text
        and (text.rstrip().endswith("?")) == (spec["ending"] == "question")
        and (text.startswith("- ")) == (spec["form"] == "list")
    )


def make(rng: random.Random) -> dict[str, str] | None:
    """One checked pair."""
    word, avoid = rng.sample(WORDS, 2)
    spec: Spec = {"subject": rng.choice(list(SUBJECTS)), "word": word, "form": rng.choice(["list", "prose"]), "sentences": rng.choice([3, 4]), "ending": rng.choice(["question", "statement"])}
    broken = rng.choices(["subject", "word", "form", "sentences", "ending"], [5, 3, 4, 1, 2])[0]
    other: dict[str, str | int] = {
        "subject": rng.choice([s for s in SUBJECTS if s != spec["subject"]]),
        "word": avoid,
        "form": "prose" if spec["form"] == "list" else "list",
        "sentences": rng.choice([n for n in (3, 4) if n != spec["sentences"]]),
        "ending": "statement" if spec["ending"] == "question" else "question",
    }
    chosen, rejected = answer(rng, spec), answer(rng, {**spec, broken: other[broken]})
    if not check(spec, avoid, chosen) or check(spec, avoid, rejected):
        return None
    parts = [f"Use the word \"{word}\".", f"Do not use the word \"{avoid}\".", "Answer as a list." if spec["form"] == "list" else "Answer as running text, not as a list.", f"Write {spec['sentences']} sentences.", "End with a question." if spec["ending"] == "question" else "Do not end with a question."]
    rng.shuffle(parts)
    prompt = rng.choice(ASK).format(s=spec["subject"]) + " " + " ".join(parts)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "error": broken}
