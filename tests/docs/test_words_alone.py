"""A learner that sees questions alone finds what they give away, and nothing where they give nothing away."""

import random

from tools.words_alone import Offers, Pair, Words


def offers(rng: random.Random, *, small: float) -> list[Pair]:
    """Ask three hundred times which of two things is bigger; a mouse is with the given chance."""
    return [
        (f"Which is bigger, the {one} or the {other}?", "mouse" if rng.random() < small else "tower")
        for one, other in (rng.sample(("mouse", "tower"), 2) for _ in range(300))
    ]


def test_what_is_right_more_often_is_chosen_in_either_order() -> None:
    choose = Offers(offers(random.Random(0), small=0.2))
    assert choose("Which is bigger, the mouse or the tower?") == "tower"
    assert choose("Which is bigger, the tower or the mouse?") == "tower"
    assert choose("Which is smaller, the tower or the mouse?") is None  # never asked so
    assert choose("Where is the mouse?") is None


def test_a_thing_that_was_never_offered_counts_as_its_kind() -> None:
    learned = offers(random.Random(0), small=0.2)
    choose = Offers([(text.replace("mouse", "circle"), answer.replace("mouse", "circle")) for text, answer in learned])
    assert choose("Which is bigger, the square or the house?") == "house"


def test_words_answer_what_goes_with_them_and_guess_what_does_not() -> None:
    rng = random.Random(0)
    colours = ("red", "green", "blue")
    learned = [("What colour is the tomato?", "red"), ("What colour is the pea?", "green")] * 100
    learned += [("What colour is the car?", rng.choice(colours)) for _ in range(600)]
    say = Words(learned)
    assert (say("What colour is the tomato?"), say("What colour is the pea?")) == ("red", "green")
    asked = [say("What colour is the car?") == rng.choice(colours) for _ in range(300)]
    assert 0.2 < sum(asked) / len(asked) < 0.45
