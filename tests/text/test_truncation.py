"""A text that is too long keeps its instruction, whichever end is cut; what is lost is counted and shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from zh_embedder.core.errors import UserError
from zh_embedder.text.tokens import tokenize
from zh_embedder.text.truncation import Clipped, Cut, behind, cut_of, tokenize_cut

INSTRUCTION = "为问题检索："
TEXT = "甲问天气如何，乙答今天有雨，甲又问明天呢"
WORDS = "甲乙今天明天气如何有雨又问答呢，"


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def of_python(tiny_bert):
    """A tokenizer before whose backend Python code comes: no shortcut leads past it."""

    class Odd(type(AutoTokenizer.from_pretrained(tiny_bert))):
        def __call__(self, *args, **options):
            return super().__call__(*args, **options)

    return Odd.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def bare(tiny_bert):
    """A tokenizer that adds no special tokens."""
    from tokenizers import processors

    made = AutoTokenizer.from_pretrained(tiny_bert)
    made.backend_tokenizer.post_processor = processors.Sequence([])
    return made


def read(tokenizer, ids) -> str:
    return tokenizer.decode(ids).replace(" ", "")


@pytest.mark.parametrize("kind", ["tokenizer", "of_python"])
def test_the_instruction_stays_and_the_end_or_the_front_of_the_text(kind, request):
    own = request.getfixturevalue(kind)
    left, right = (tokenize_cut(own, [behind(INSTRUCTION, TEXT, side)], 13)[0] for side in ("left", "right"))
    assert read(own, left) == f"[CLS]{INSTRUCTION}{TEXT[-5:]}[SEP]"
    assert read(own, right) == f"[CLS]{INSTRUCTION}{TEXT[:5]}[SEP]"
    assert own.truncation_side == "right"


def test_without_an_instruction_the_front_is_cut_as_the_tokenizer_would(tiny_bert, tokenizer, bare):
    theirs = AutoTokenizer.from_pretrained(tiny_bert)
    theirs.truncation_side = "left"
    for limit in range(3, len(TEXT) + 4):
        assert tokenize_cut(tokenizer, [Clipped(TEXT, "", "left")], limit) == tokenize(theirs, [TEXT], limit)
    (ids,) = tokenize_cut(bare, [behind(INSTRUCTION, TEXT, "left")], 9)
    assert read(bare, ids) == INSTRUCTION + TEXT[-3:]


def test_an_instruction_that_leaves_no_room_for_a_text_is_cut_first(tokenizer):
    for limit in range(3, len(INSTRUCTION) + 3):
        (ids,) = tokenize_cut(tokenizer, [behind(INSTRUCTION, TEXT, "left")], limit)
        assert read(tokenizer, ids) == f"[CLS]{TEXT[-(limit - 2) :]}[SEP]"
    (ids,) = tokenize_cut(tokenizer, [behind(INSTRUCTION, TEXT, "left")], limit + 1)
    assert read(tokenizer, ids) == f"[CLS]{INSTRUCTION}{TEXT[-1:]}[SEP]"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(WORDS, max_size=9), st.text(WORDS, max_size=30), st.sampled_from([None, "left", "right"]))
    ),
    st.integers(14, 30),
)
def test_texts_cut_on_any_side_side_by_side(tokenizer, parts, limit):
    texts = [behind(*part) for part in parts]
    found = tokenize_cut(tokenizer, texts, limit)
    for (instruction, body, side), ids in zip(parts, found, strict=True):
        whole = instruction + body
        room = limit - 2 - len(instruction)
        kept = whole if len(whole) + 2 <= limit else instruction + (body[-room:] if side == "left" else body[:room])
        assert read(tokenizer, ids) == f"[CLS]{kept}[SEP]"


def test_half_a_character_is_named(tokenizer):
    with pytest.raises(UserError, match=r"^texts\[1\]: character 7: got '\\ud83d'"):
        tokenize_cut(tokenizer, [behind("", "好", "left"), behind(INSTRUCTION, "好\ud83d", "left")], 12)


@pytest.mark.parametrize("kind", ["tokenizer", "of_python"])
@pytest.mark.parametrize(("side", "lost"), [("right", TEXT[5:]), ("left", TEXT[:-5])])
def test_what_is_lost_is_counted_and_shown(kind, side, lost, request):
    own = request.getfixturevalue(kind)
    texts = [behind(INSTRUCTION, text, side) for text in ("短文", TEXT, TEXT + "吗", "也短")]
    assert cut_of(own, texts, 13) == Cut(0.5, lost)
    assert cut_of(own, texts[:1], 13) == Cut()
    assert cut_of(own, [], 13) == Cut()
    long = "很久以前的话\n\n" * 30 + TEXT
    assert cut_of(own, [behind(INSTRUCTION, long, "right")], 13).lost == ("很久以前的话 " * 30 + TEXT)[-30:]
    assert Cut(0.11).notable
    assert not Cut(0.1).notable
