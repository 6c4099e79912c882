"""An answer is right when it says the right thing plainly, and only that."""

import pytest

from llava_mini.data.answers import Question, capitalised, is_correct, says_name
from llava_mini.data.names import names, plural, synonyms_of, with_article


@pytest.mark.parametrize(
    ("answer", "names", "right"),
    [
        ("It is a cat.", ("cat",), True),
        ("Cats", ("cat",), True),
        ("There are two foxes.", ("fox",), True),
        ("A German shepherd.", ("dog", "german shepherd"), True),
        ("It is a hot dog.", ("dog",), False),
        ("It is not a cat.", ("cat",), False),
        ("It is a catfish.", ("cat",), False),
        ("It is a dog. It may be a cat.", ("cat",), False),
        ("A dog, a cat, a cow, a pig, a hen, a fox, a bee and a bat.", ("cat",), False),
        ("Dog, cat, cow, pig, hen, fox, bee, bat.", ("cat",), False),
        ("A teddy bear.", ("bear",), False),
        ("A teddy bear.", ("teddy bear", "teddy"), True),
        ("It isn't a cat.", ("cat",), False),
        ("", ("cat",), False),
        ("A cat, a dog or a horse.", ("horse",), False),
        ("Neither a cat nor a dog.", ("cat",), False),
        ("A pencil sharpener", ("pencil",), False),
        ("It is a plate rack.", ("plate",), False),
        ("a bee eater", ("bee",), False),
        ("The car mirror", ("car",), False),
        ("A bird, a fish and pliers", ("bird",), False),
        ("It is an orange cat.", ("cat",), True),
        ("A black and white cat", ("cat",), True),
        ("A dog on a couch.", ("dog",), True),
        ("There is a dog in the picture.", ("dog",), True),
        ("The picture shows a dog sitting on grass.", ("dog",), True),
        ("In the picture there is a dog.", ("dog",), True),
        ("An owl and a bird", ("owl", "bird"), True),
        ("A cat and a dog.", ("dog",), False),
        ("The dog is brown.", ("dog",), True),
        ("I think this is a DOG! It sits.", ("dog",), True),
        ("A great grey owl.", ("owl", "bird"), True),
        ("A bird", ("owl", "bird"), True),
        ("Ring", ("ring",), True),
        ("It is a glass of wine.", ("glass",), True),
        ("It is a glass of wine.", ("wine",), False),
        ("A tabby cat.", ("cat",), True),
        ("shoe shop", ("shoe",), False),
        ("A fire truck.", ("fire truck",), True),
        ("A fire truck.", ("truck",), False),
        ("It is an office building.", ("office building",), True),
        ("Two bows and arrows.", ("bow and arrow",), True),
        ("It is an ear of corn.", ("corn", "ear of corn"), True),
        ("It is a bow and a dog.", ("bow and arrow",), False),
        ("It is a bow and arrow and a dog.", ("bow and arrow",), False),
    ],
)
def test_a_name_counts_only_when_it_is_said_plainly(answer: str, names: tuple[str, ...], right: bool) -> None:
    assert says_name(answer, names) is right


def test_every_name_that_is_taught_is_right_when_it_is_said() -> None:
    for name in names().category:
        accepted = tuple(form for word in synonyms_of(name) for form in (word, plural(word)))
        for said in (f"It is {with_article(name)}.", capitalised(name), f"There are two {plural(name)}."):
            assert says_name(said, accepted), said


@pytest.mark.parametrize(
    ("accepted", "rivals", "answer", "right"),
    [
        (("red",), ("blue",), "The star is not red.", False),
        (("red",), ("blue",), "It is red.", True),
        (("left",), ("right",), "It isn’t on the left.", False),
        (("no",), ("yes",), "No, there is no star.", True),
        (("yes",), ("no",), "Yes, and not a small one.", True),
    ],
)
def test_a_denial_says_nothing_but_to_yes_or_no(
    accepted: tuple[str, ...], rivals: tuple[str, ...], answer: str, right: bool
) -> None:
    assert is_correct(Question("where", "?", "", accepted, rivals), answer) is right
