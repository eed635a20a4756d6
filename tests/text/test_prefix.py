"""The text that goes to the tokenizer is made in one place."""

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.text.prefix import KEY_TEMPLATE, as_prefix, full_text


@pytest.mark.parametrize(
    ("title", "instruction", "expected"),
    [
        (None, "", "正文"),
        ("", "", "正文"),
        ("题", "", "题 正文"),
        (None, "段落：", "段落：正文"),
        ("题", "段落：", "段落：题 正文"),
        ("{text}", "{0}", "{0}{text} 正文"),  # braces of users are no fields
    ],
)
def test_instruction_then_title_then_body(title, instruction, expected):
    assert full_text("正文", title=title, instruction=instruction) == expected


def test_a_title_is_joined_as_the_template_of_corpora_says():
    assert full_text("b", title="a") == KEY_TEMPLATE.format(title="a", text="b")


def test_a_format_becomes_a_plain_prefix():
    assert as_prefix("找答案", "指令：{}\\n问题：{}", flag="--f") == "指令：找答案\n问题："


@pytest.mark.parametrize("template", ["{}", "{}{}{}", "{}{}。", "{a}{}", "{"])
def test_a_format_that_is_no_prefix_is_refused(template):
    with pytest.raises(UserError, match="--f: got"):
        as_prefix("找", template, flag="--f")
