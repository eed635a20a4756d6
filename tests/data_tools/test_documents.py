"""Documents of every kind become the same blocks below the same headings; what is left out is said."""

import gzip
import logging

import pytest

from data_tools.generating.documents import read_documents
from data_tools.generating.html_blocks import TextBlock, one_line, read_page
from data_tools.generating.pdf_text import chapter_level, unwrapped, without_running_heads
from zh_embedder.core.errors import UserError

SERVICE, PRICE = ("对象存储手册",), ("对象存储手册", "价格")
BLOCKS = [
    TextBlock("对象存储保存任意大小的文件。", SERVICE),
    TextBlock("每个文件有一个名字。", SERVICE),
    TextBlock("按用量计费。", PRICE),
    TextBlock("区域 | 单价\n北京 | 0.12 元", PRICE),
]


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def read_one(path):
    (document,) = read_documents([str(path)])
    return document


MARKDOWN = """# 对象存储手册

对象存储保存任意
大小的文件。

- 每个文件有一个**名字**。

## 价格

按用量计费。

| 区域 | 单价 |
|---|---|
| 北京 | 0.12 元 |
"""
HTML = """<!doctype html><html><head><title>云站</title><style>p {}</style></head><body>
<nav>首页 产品</nav><!-- 注释 --><script>var x = "对象";</script>
<div><h1>对象存储<br>手册</h1><div><p>对象存储保存任意
    大小的<b>文件</b>。</p></div><ul><li>每个文件有一个<a href="x">名字</a>。</li></ul>
<h2>价格</h2>按用量计费。
<table><tr><th>区域</th><th>单价</th></tr><tr><td>北京</td><td>0.12 元</td></tr></table></div>
<footer>版权所有</footer></body></html>"""


def test_markdown_is_read_by_its_structure(tmp_path):
    document = read_one(written(tmp_path / "a.md", MARKDOWN))
    assert (document.name, document.title) == ("a.md", "对象存储手册")
    assert document.blocks == BLOCKS


def test_html_is_read_by_its_structure_and_what_stands_around_is_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    document = read_one(written(tmp_path / "a.html", HTML.replace("<br>", "")))
    assert document.blocks == BLOCKS
    assert document.title == "对象存储手册"
    assert "left out: 8 letters of navigation" in caplog.text  # 首页产品, 版权所有


def test_word_files_are_read_by_their_styles(tmp_path):
    from docx import Document

    own = Document()
    own.add_heading("对象存储手册", level=1)
    own.add_paragraph("对象存储保存任意大小的文件。")
    own.add_paragraph("每个文件有一个名字。", style="List Bullet")
    own.add_heading("价格", level=2)
    own.add_paragraph("按用量计费。")
    table = own.add_table(rows=2, cols=2)
    for cell, text in zip(
        (c for row in table.rows for c in row.cells), ("区域", "单价", "北京", "0.12 元"), strict=True
    ):
        cell.text = text
    own.save(tmp_path / "a.docx")
    assert read_one(tmp_path / "a.docx").blocks == BLOCKS


def test_word_headings_in_styles_of_ones_own_are_headings(tmp_path):
    from docx import Document
    from docx.enum.style import WD_STYLE_TYPE

    own = Document()
    own.styles.add_style("1级标题", WD_STYLE_TYPE.PARAGRAPH)
    own.add_paragraph("总则", style="1级标题")
    own.add_paragraph("正文。")
    own.save(tmp_path / "a.docx")
    assert read_one(tmp_path / "a.docx").blocks == [TextBlock("正文。", ("总则",))]


def make_pdf(path, pages, marks=()):
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    canvas = Canvas(str(path), pagesize=A4)
    for number, lines in enumerate(pages, start=1):
        canvas.setFont("STSong-Light", 12)
        for at, line in enumerate(["存储公司内部资料", *lines, f"第 {number} 页"]):
            canvas.drawString(60, 780 - 20 * at, line)
            if line in marks:
                canvas.bookmarkPage(line)
                canvas.addOutlineEntry(line, line, level=0)
        canvas.showPage()
    canvas.save()


def test_pdf_lines_are_joined_running_heads_go_and_bookmarks_are_headings(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pages = [
        ["概述", "对象存储保存任意大小的文件，每个文件有一个名字，名字在同一个容", "器里不能重复。"],
        ["第二章 价格", "按用量计费，每个月的第一天结算上一个月的用量，余额不足时会先", "发出提醒，再暂停服务。"],
        ["其余见合同，合同与本手册不一致时以合同为准，合同没有写明的以手册", "为准。"],
    ]
    make_pdf(tmp_path / "手册.pdf", pages, marks=("概述",))
    document = read_one(tmp_path / "手册.pdf")
    assert document.title == "手册"
    assert document.blocks == [
        TextBlock("对象存储保存任意大小的文件，每个文件有一个名字，名字在同一个容器里不能重复。", ("概述",)),
        TextBlock(
            "按用量计费，每个月的第一天结算上一个月的用量，余额不足时会先发出提醒，再暂停服务。",
            ("概述", "第二章 价格"),
        ),
        TextBlock("其余见合同，合同与本手册不一致时以合同为准，合同没有写明的以手册为准。", ("概述", "第二章 价格")),
    ]
    assert "left out: 6 lines of running heads" in caplog.text


def test_plain_text_has_paragraphs_and_chapters(tmp_path):
    text = "第一章 总则\n\n第一条 为了规范市场，\n制定本法。\n\n第二条 适用。\n第二节 分则\n第三条 另定。\n"
    blocks = read_one(written(tmp_path / "a.txt", text)).blocks
    chapter = ("第一章 总则",)
    assert blocks == [
        TextBlock("第一条 为了规范市场，\n制定本法。", chapter),
        TextBlock("第二条 适用。", chapter),
        TextBlock("第三条 另定。", (*chapter, "第二节 分则")),
    ]


def test_json_lines_are_a_document_each(tmp_path):
    lines = '{"title": "题", "text": "甲。\\n\\n乙。"}\n{"id": "x", "text": "丙。"}\n'
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(lines)
    first, second = read_documents([str(tmp_path / "a.jsonl.gz")])
    assert (first.name, first.title, first.blocks) == ("a.jsonl.gz#1", "题", [TextBlock("甲。"), TextBlock("乙。")])
    assert (second.name, second.blocks) == ("a.jsonl.gz#x", [TextBlock("丙。")])


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.txt", "对象存储。", "gb18030"),
        ("a.txt", "对象存储。", "utf-16"),
        ("a.html", '<meta charset="gb2312"><p>对象存储。', "gb18030"),
        ("a.html", '<meta http-equiv="Content-Type" content="text/html; charset=big5"><p>對象存儲。', "big5"),
        ("a.html", '<meta charset="gb2312"><p>对象存储。', "utf-8"),  # declares what it is not
        ("a.html", '<meta charset="gb2312"><p>對象存儲。', "gb18030"),  # characters that GB 2312 has not
    ],
)
def test_encodings_are_found(tmp_path, name, text, encoding):
    blocks = read_one(written(tmp_path / name, text, encoding)).blocks
    assert [block.text for block in blocks] in (["对象存储。"], ["對象存儲。"])


def test_a_heading_ends_those_of_its_level_and_below(tmp_path):
    text = "# 一\n\n## 甲\n\n### 子\n\na\n\n## 乙\n\nb\n\n# 二\n\nc\n"
    blocks = read_one(written(tmp_path / "a.md", text)).blocks
    assert [block.headings for block in blocks] == [("一", "甲", "子"), ("一", "乙"), ("二",)]


def test_a_front_matter_gives_the_title_and_is_no_text(tmp_path):
    document = read_one(written(tmp_path / "a.md", "---\ntitle: 手册\ntags: [a]\n---\n正文。\n"))
    assert (document.title, document.blocks) == ("手册", [TextBlock("正文。")])


def test_files_are_named_below_their_folder_and_other_kinds_are_said(tmp_path, caplog):
    (tmp_path / "docs" / "b").mkdir(parents=True)
    written(tmp_path / "docs" / "b" / "x.md", "甲。")
    written(tmp_path / "docs" / "X.TXT", "乙。")
    written(tmp_path / "docs" / "old.doc", "x")
    assert [document.name for document in read_documents([str(tmp_path / "docs")])] == ["X.TXT", "b/x.md"]
    assert "1 file of kinds that are not read: 1 .doc" in caplog.text


def test_broken_files_are_all_named_and_may_be_left_out(tmp_path, caplog):
    for name in ("a.docx", "b.pdf"):
        written(tmp_path / name, "nothing of the kind")
    written(tmp_path / "c.md", "甲。")
    with pytest.raises(UserError) as caught:
        read_documents([str(tmp_path)])
    assert "a.docx: cannot be read as a Word file" in str(caught.value)
    assert "b.pdf: cannot be read as PDF" in str(caught.value)
    assert [document.name for document in read_documents([str(tmp_path)], skip_unreadable=True)] == ["c.md"]
    assert caplog.text.count("left out: ") == 2


def test_a_document_without_text_is_said(tmp_path, caplog):
    written(tmp_path / "a.md", "![图](x.png)\n")
    written(tmp_path / "b.md", "甲。")
    assert len(read_documents([str(tmp_path)])) == 1
    assert "1 document without text (scans?): a.md" in caplog.text
    with pytest.raises(UserError, match="no text in"):
        read_documents([str(tmp_path / "a.md")])


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.doc", "save it as .docx"), ("none", "no such file")],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, message):
    written(tmp_path / "a.doc", "x")
    with pytest.raises(UserError, match=message):
        read_documents([str(tmp_path / name)])


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "x.md", "甲。")
    with pytest.raises(UserError, match=r"would both be called x\.md"):
        read_documents([str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("中文\n换行", "中文换行"),
        ("中文，\n  换行", "中文，换行"),
        ("word\nnext", "word next"),
        ("中文\nword", "中文 word"),
        ("甲 乙", "甲 乙"),
        (" \u3000甲\xa0\n", "甲"),
    ],
)
def test_white_space_collapses_as_chinese_is_written(text, line):
    assert one_line(text) == line


def test_line_breaks_of_a_page_stay_and_deep_nesting_does_not_matter():
    page = read_page("<div>" * 3000 + "甲<br/>乙" + "</div>" * 3000)
    assert page.blocks == [TextBlock("甲\n乙")]


def test_code_keeps_its_lines():
    assert read_page("<pre>\na = 1\n  b = 2\n</pre>").blocks == [TextBlock("a = 1\n  b = 2")]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("第一编 总则", 1),
        ("第十二章", 2),
        ("第3节 价格", 3),
        ("第一章规定了总则。", None),
        ("第一条 为了", None),
        ("正文", None),
    ],
)
def test_chapters_are_told_by_their_looks(line, level):
    assert chapter_level(line) == level


def test_wrapped_lines_are_joined_and_verse_is_not():
    wrapped = ["对象存储保存任意大小的文件，每个文件都有一", "个名字，名字在同一个容器里不能重复，重复了", "会报错。"]
    assert unwrapped(wrapped) == "".join(wrapped)
    assert unwrapped(["床前明月光，", "疑是地上霜。"]) == "床前明月光，\n疑是地上霜。"


def test_running_heads_are_those_of_most_pages():
    bodies = [["春眠不觉晓", "同样", "处处闻啼鸟"], ["夜来风雨声", "同样", "花落知多少"], ["甲", "手册", "乙"]]
    pages = [["手册", *body, f"第 {number} 页"] for number, body in enumerate(bodies, start=1)]
    assert without_running_heads(pages) == (bodies, 6)  # and not the line in the middle of a page that is like one
    kept, dropped = without_running_heads(pages[:2])
    assert (kept, dropped) == (pages[:2], 0)  # two pages repeat too little to tell


def test_a_file_that_is_no_text_is_named_whatever_it_is_called(tmp_path):
    for name in ("picture.html", "notes.md", "a.txt"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
        with pytest.raises(UserError, match=rf"{name}: is not text: it holds null characters"):
            read_documents([str(tmp_path / name)])
    (tmp_path / "short.txt").write_bytes("好，對".encode("big5"))
    with pytest.raises(UserError, match=r"short\.txt: encoding: may be GB18030 or Big5, expected UTF-8, or `iconv "):
        read_documents([str(tmp_path / "short.txt")])
