"""VQA accuracy: an answer counts in full when three of ten people gave it, after both were written alike.

Source: Antol et al., "VQA: Visual Question Answering" (2015), section 4, and the challenge's evaluation, whose rules of
writing alike are restated here. Two programs are in use and differ in small things; each benchmark names its own:

- `vqa_accuracy`, of the VQA challenge: where all ten people gave the same answer nothing is rewritten, not even case;
- `m4c_accuracy`, of TextVQA: everything is rewritten first, and case, "'s" and commas never count.
"""

import re
from collections.abc import Iterable, Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = {"a", "an", "the"}
_NUMBERS = "none zero one two three four five six seven eight nine ten".split()
_DIGITS = dict(zip(_NUMBERS, "0 0 1 2 3 4 5 6 7 8 9 10".split(), strict=True))
_FULL_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the look-behind is written wrongly in the original, and counts so
_COMMA_IN_NUMBER = re.compile(r"(\d)(,)(\d)")
_SHORT_FORMS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas "
    "wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've "
    "who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd "
    "you'd've you'll you're you've"
).split()


def _without_one_apostrophe(words: Iterable[str]) -> dict[str, str]:
    """Return every way to leave out one apostrophe of a short form, and the form."""
    return {word[:place] + word[place + 1 :]: word for word in words for place, sign in enumerate(word) if sign == "'"}


_APOSTROPHES = _without_one_apostrophe(_SHORT_FORMS) | {"somebody'd": "somebodyd"}  # the last as the original has it


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return the accuracy of an answer as the VQA challenge counts it, from 0 to 1.

    The mean over all choices of nine of the ten people of min(1, how many of the nine agree / 3).

    Args:
        people: what people answered; ten in VQAv2 and VizWiz.
    """
    people = [_one_line(one) for one in people]
    answer = _one_line(answer)
    if len(set(people)) > 1:
        people = [_plain_words(_plain_marks(one)) for one in people]
        answer = _plain_words(_plain_marks(answer))
    return _agreement(answer, people)


def m4c_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return the accuracy of an answer as TextVQA's evaluation counts it (Singh et al., 2019; the program of M4C)."""
    return _agreement(m4c_form(answer), [m4c_form(one) for one in people])


def served_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return `vqa_accuracy` of what is submitted: `m4c_form` of the answer, as LLaVA sends it to the servers."""
    return vqa_accuracy(m4c_form(answer), people)


def m4c_form(answer: str) -> str:
    """Write an answer as TextVQA's evaluation does before it compares, and LLaVA before it submits to VQAv2, VizWiz."""
    words = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_plain_marks(_one_line(words)))


def _agreement(answer: str, people: Sequence[str]) -> float:
    if not people:
        raise ValueError("the answers of at least one person are needed")
    same = sum(one == answer for one in people)
    others = len(people) - same
    return (same * min(1.0, (same - 1) / 3) + others * min(1.0, same / 3)) / len(people)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _plain_marks(text: str) -> str:
    """Drop a mark that stands beside a space, or everywhere where a number has a comma; else make it a space."""
    plain = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(text) else " ")
    return _FULL_STOP.sub("", plain)


def _plain_words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes where they belong."""
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)
