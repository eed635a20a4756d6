"""Queries for documents, from a real server on loopback: its failures, budgets, kills; what is kept and what is not."""

import json
import re
import signal
import time

import pytest

from data_tools.generate_queries import main
from data_tools.generating.filters import FilterLimits, GeneratedQuery, judged, records_of
from data_tools.generating.ledger import Entry, Ledger
from data_tools.generating.passages import Passage
from data_tools.generating.prompts import PROMPTS, Garbage, Written, read_answer, read_prompts
from data_tools.generating.requests import Budget, Request
from data_tools.generating.round_trip import load_retriever, ranks_of
from examples.from_documents.recorded_endpoint import Endpoint, recorded, write_documents
from tests.processes import forked, start
from zh_embedder.core.errors import UserError

KEY = "sk-of-the-user"
CITIES = {
    "北京": "烤鸭",
    "上海": "小笼",
    "广州": "早茶",
    "成都": "火锅",
    "杭州": "龙井",
    "武汉": "热干面",
    "西安": "泡馍",
    "南京": "盐水鸭",
}


def text_of(city, dish):
    queue = f"{city}的{dish}远近闻名，每天早晨老店门口都排着长队。"
    return f"{queue}来{city}的人多半会先吃一顿，再去别处走走看看，傍晚回来歇脚。"


def answer(prompt):
    """Two questions about the city of the passage."""
    city = next(city for city in CITIES if f"{city}的" in prompt)
    queries = [{"query": f"{city}有什么好吃的？", "answer": CITIES[city]}, {"query": f"去{city}先做什么？"}]
    return json.dumps({"queries": queries}, ensure_ascii=False)


EXPECTED = [
    {
        "query": query,
        "pos": [f"{city}美食\n{text_of(city, dish)}"],
        "task": "qa",
        "id": f"q-{2 * number + place}",
        "group": f"{number}.md",
        **({"answers": [dish]} if place == 1 else {}),
    }
    for number, (city, dish) in enumerate(CITIES.items())
    for place, query in enumerate((f"{city}有什么好吃的？", f"去{city}先做什么？"), start=1)
]


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, (city, dish) in enumerate(CITIES.items()):
        (folder / f"{number}.md").write_text(f"# {city}美食\n\n{text_of(city, dish)}\n", "utf-8")
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def generate(docs, url, *flags, expect=0):
    output = docs.parent / "q.jsonl"
    base = [
        str(docs),
        "--output",
        str(output),
        "--model",
        "m",
        "--concurrency",
        "3",
        *(["--base_url", url] if url else []),
    ]
    assert main([*base, *flags]) == expect
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ledger_of(output):
    return rows(output.with_name(f"{output.name}.ledger.jsonl"))


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_documents_become_records_with_their_passage_answers_and_group(docs):
    corpus = docs.parent / "corpus.jsonl"
    with Endpoint(answer) as server:
        output = generate(docs, server.url, "--corpus", str(corpus))
    assert rows(output) == EXPECTED
    assert [row["text"] for row in rows(corpus)] == [record["pos"][0] for record in EXPECTED[::2]]
    assert rows(corpus)[0]["id"] == "0.md#1"
    assert rows(output.with_name("q.jsonl.refused.jsonl")) == []
    sent = server.requests[0]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("m", 0.7, 1024)
    assert sent["messages"][0]["role"] == "system"
    assert "请写出 3 个不同的问题" in sent["messages"][1]["content"]


def test_each_task_is_a_request_of_its_own_with_its_own_prompt(docs):
    with Endpoint(answer) as server:
        output = generate(docs, server.url, "--tasks", "qa", "title")
    assert len(server.requests) == 2 * len(CITIES)
    assert sum("写出 3 个不同的标题" in own["messages"][1]["content"] for own in server.requests) == len(CITIES)
    assert {record["task"] for record in rows(output)} == {"qa", "title"}


@pytest.mark.parametrize("flags", [(), ("--stream",)], ids=["whole", "stream"])
def test_a_server_in_trouble_changes_nothing_in_the_end(docs, flags):
    troubles = ["429", "500", "cut", "garbage", "503", "cut", "html", "408"]
    with Endpoint(answer, lambda number: dict(enumerate(troubles)).get(number)) as server:
        output = generate(docs, server.url, "--concurrency", "1", "--attempts", "4", *flags)
    assert rows(output) == EXPECTED
    happened = set(troubles) - ({"html"} if flags else set())  # a stream has no such trouble here
    assert happened <= set(server.troubles)
    assert len({own["key"] for own in ledger_of(output)}) == len(ledger_of(output)) == len(CITIES)


def test_requests_run_side_by_side_and_the_output_does_not_depend_on_how_many(docs):
    written = []
    for count in (1, 5):
        with Endpoint(answer) as server:
            server.delay = 0.05
            output = generate(docs, server.url, "--concurrency", str(count))
            written.append(output.read_bytes())
            assert server.most_busy <= count
            assert count == 1 or server.most_busy > 1
        for path in (output, output.with_name("q.jsonl.ledger.jsonl")):
            path.unlink()
    assert written[0] == written[1]


def test_nothing_is_asked_twice_and_a_cut_line_is_asked_again(docs, capsys):
    with Endpoint(answer) as server:
        output = generate(docs, server.url)
        first, asked = output.read_bytes(), len(server.requests)
        generate(docs, server.url)
        assert len(server.requests) == asked == len(CITIES)
        ledger = output.with_name("q.jsonl.ledger.jsonl")
        ledger.write_bytes(ledger.read_bytes()[:-7])
        generate(docs, server.url)
        assert len(server.requests) == asked + 1
    assert "the last line was cut off and is dropped" in capsys.readouterr().err
    assert output.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_a_killed_run_goes_on_and_gives_the_same_file(docs, sign):
    with Endpoint(answer) as server:
        first = generate(docs, server.url).read_bytes()
        (docs.parent / "q.jsonl").unlink()
        ledger = docs.parent / "q.jsonl.ledger.jsonl"
        ledger.unlink()
        server.requests.clear()
        server.delay = 0.3
        words = [*forked(), "-m", "data_tools.generate_queries", docs, "--output", docs.parent / "q.jsonl"]
        words += ["--model", "m", "--base_url", server.url, "--concurrency", "1"]
        process = start(words, docs.parent)
        deadline = time.monotonic() + 60
        while (not ledger.exists() or ledger.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sign)
        printed = process.communicate(timeout=60)[0]
        assert "Traceback" not in printed
        assert ("the same command goes on" in printed) is (sign == signal.SIGINT)
        kept = ledger.read_bytes().count(b"\n")
        assert 3 <= kept < len(CITIES)
        assert not (docs.parent / "q.jsonl").exists()
        server.requests.clear()
        server.delay = 0.0
        assert generate(docs, server.url).read_bytes() == first
        assert len(server.requests) == len(CITIES) - kept


def test_dry_run_asks_nobody_shows_a_prompt_and_needs_no_key(docs, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main([str(docs), "--dry_run", "--corpus", str(docs.parent / "c.jsonl")]) == 0
    printed = capsys.readouterr().err
    assert "8 requests of" in printed
    assert text_of("北京", "烤鸭") in printed
    assert len(rows(docs.parent / "c.jsonl")) == len(CITIES)


def test_limit_asks_about_some_passages_and_searches_all(docs):
    with Endpoint(answer) as server:
        output = generate(docs, server.url, "--limit", "3")
    assert len(server.requests) == 3
    assert len({record["pos"][0] for record in rows(output)}) == 3


def test_the_page_escapes_what_a_model_wrote(docs):
    bad = '{"queries": [{"query": "<script>alert(1)</script>北京的烤鸭"}]}'
    with Endpoint(lambda prompt: bad) as server:
        output = generate(docs, server.url, "--round_trip", "0")
    page = output.with_name("q.jsonl.sample.html").read_text("utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("401:bad_key:no such key", "no such key"),
        ("403:region:not here", "not here"),
        ("404:model_not_found:no model m", "no model m"),
        ("429:insufficient_quota:pay first", "the account is empty"),
    ],
)
def test_what_no_request_would_survive_stops_the_run_and_loses_nothing(docs, capsys, trouble, message):
    with Endpoint(answer, lambda number: trouble if number >= 2 else None) as server:
        output = generate(docs, server.url, "--concurrency", "1", "--retries", "0", expect=2)
    printed = capsys.readouterr().err
    assert message in printed
    assert "the same command goes on from there" in printed
    assert "Traceback" not in printed
    assert len(ledger_of(output)) == 2
    assert not output.exists()
    with Endpoint(answer) as server:
        assert rows(generate(docs, server.url)) == EXPECTED
        assert len(server.requests) == len(CITIES) - 2


def test_a_refused_request_is_said_and_not_asked_again_unless_wished(docs, capsys):
    with Endpoint(answer, lambda number: "400:filter:data inspection failed" if number == 1 else None) as server:
        output = generate(docs, server.url, "--concurrency", "1")
        assert len(rows(output)) == len(EXPECTED) - 2
        printed = capsys.readouterr().err
        assert "1 request refused by the endpoint (--retry asks again)" in printed
        assert "data inspection failed" in printed
        generate(docs, server.url)
        assert len(server.requests) == len(CITIES)
        assert rows(generate(docs, server.url, "--retry")) == EXPECTED
        assert len(server.requests) == len(CITIES) + 1


def test_garbage_is_asked_for_again_so_often_then_kept_and_said(docs, capsys):
    def stubborn(prompt):
        return "我不知道" if "北京的" in prompt else answer(prompt)

    with Endpoint(stubborn) as server:
        output = generate(docs, server.url, "--attempts", "2")
    assert len(server.requests) == len(CITIES) + 1
    assert rows(output) == [{**r, "id": f"q-{n}"} for n, r in enumerate(EXPECTED[2:], start=1)]
    (entry,) = [entry for entry in ledger_of(output) if entry["state"] == "garbage"]
    assert (entry["text"], entry["prompt_tokens"], entry["completion_tokens"]) == ("我不知道", 200, 20)
    assert "1 request answered without queries" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", ["500", "400:no:wrong field"])
def test_an_endpoint_that_only_fails_is_given_up(docs, capsys, trouble):
    with Endpoint(answer, lambda number: trouble) as server:
        generate(
            docs, server.url, "--give_up", "3", "--retries", "0", "--attempts", "1", "--concurrency", "1", expect=2
        )
    assert len(server.requests) == 3
    assert "3 requests in a row" in capsys.readouterr().err


def test_no_server_at_all_is_one_clear_message(docs, capsys):
    generate(docs, "http://127.0.0.1:9/v1", "--retries", "0", "--give_up", "1", expect=2)
    assert "http://127.0.0.1:9/v1: 1 requests in a row were not answered: APIConnectionError" in capsys.readouterr().err


def test_an_answer_that_is_all_empty_lists_gives_no_file(docs, capsys):
    with Endpoint(lambda prompt: '{"queries": []}') as server:
        generate(docs, server.url, expect=2)
        assert len(server.requests) == len(CITIES)  # an empty list is an answer
    assert "no query was kept" in capsys.readouterr().err


# ---- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(docs, capsys):
    with Endpoint(answer, lambda number: "401:x:denied" if number > 3 else None) as server:
        output = generate(docs, server.url, "--concurrency", "1", expect=2)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        generate(docs, server.url.replace("127", "user:secret-pass@127"), expect=2)
    printed = capsys.readouterr()
    files = "".join(path.read_text("utf-8") for path in output.parent.glob("q.jsonl*"))
    for where in (printed.err, printed.out, files):
        assert KEY not in where
        assert "secret-pass" not in where
    assert "asking http://127.0.0.1:" in printed.err


def test_without_a_key_only_a_server_nearby_is_asked(docs, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    with Endpoint(answer) as server:
        assert rows(generate(docs, server.url)) == EXPECTED
    for url in ("https://models.example.com/v1", ""):
        generate(docs, url, expect=2)
        assert "OPENAI_API_KEY: is not set in the environment" in capsys.readouterr().err
    generate(docs, "models.example.com", expect=2)
    assert "expected an address such as" in capsys.readouterr().err


def test_another_variable_may_hold_the_key_and_the_address_comes_from_the_environment(docs, monkeypatch):
    monkeypatch.setenv("MY_KEY", "other")
    with Endpoint(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        output = docs.parent / "q.jsonl"
        assert main([str(docs), "--output", str(output), "--model", "m", "--api_key_name", "MY_KEY"]) == 0
    assert server.headers[0]["authorization"] == "Bearer other"


def test_further_fields_reach_the_server(docs):
    with Endpoint(answer) as server:
        generate(docs, server.url, "--json_mode", "--extra_body", '{"enable_thinking": false}')
    assert server.requests[0]["response_format"] == {"type": "json_object"}
    assert server.requests[0]["enable_thinking"] is False


# ---- the budget ------------------------------------------------------------------------------------------------------


def spent(output):
    return sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in ledger_of(output))


@pytest.mark.parametrize(("usage", "most_tokens"), [(True, 1500), (False, 2300)], ids=["counted", "estimated"])
def test_the_budget_is_never_passed_and_more_of_it_goes_on(docs, capsys, usage, most_tokens):
    limit = ("--max_tokens", "100", "--max_total_tokens")
    with Endpoint(answer) as server:
        server.usage = usage
        server.delay = 0.02
        output = generate(docs, server.url, *limit, str(most_tokens))
        asked = len(server.requests)
        assert 2 < asked < len(CITIES)
        most = (
            max(sum(len(message["content"].encode()) for message in own["messages"]) for own in server.requests) + 164
        )
        assert most_tokens - most < spent(output) <= most_tokens  # what is left would not have been enough for certain
        assert f"{len(CITIES) - asked} requests left unasked" in capsys.readouterr().err
        generate(docs, server.url, *limit, str(most_tokens))
        assert len(server.requests) == asked
        assert rows(generate(docs, server.url, *limit, "100000")) == EXPECTED
        assert len(server.requests) == len(CITIES)


def test_the_most_that_a_request_can_cost_is_set_aside():
    def request(key):
        return Request(PASSAGE, "qa", [{"role": "user", "content": "甲乙"}], key)

    budget = Budget(tokens=340)  # of 6 bytes + 64 for the template + 100 of the answer each: twice 170
    assert budget.reserve(request("a"), 100)
    assert budget.reserve(request("b"), 100)
    assert not budget.reserve(request("c"), 100)
    del budget.reserved["a"]
    budget.count(160, 10, estimated=False)  # as much as was set aside
    assert not budget.reserve(request("c"), 100)
    del budget.reserved["b"]
    assert budget.reserve(request("c"), 100)
    assert not Budget(tokens=169).reserve(request("a"), 100)
    price = (70 * 2 + 100 * 8) / 1e6
    assert Budget(cost=price, prices=(2.0, 8.0)).reserve(request("a"), 100)
    assert not Budget(cost=price * 0.999, prices=(2.0, 8.0)).reserve(request("a"), 100)


def test_money_is_counted_by_prices_of_a_million_tokens():
    budget = Budget(cost=0.5, prices=(2.0, 8.0))
    budget.count(100_000, 20_000, estimated=False)
    assert budget.price(budget.prompt_tokens, budget.completion_tokens) == pytest.approx(0.2 + 0.16)
    assert "100,000 tokens in, 20,000 out, cost 0.3600" in budget.said()
    with pytest.raises(UserError, match="--max_cost: needs --prices"):
        Budget(cost=0.5)


# ---- answers and prompts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"queries": [{"query": "甲", "answer": "乙"}]}', [Written("甲", "乙")]),
        ('好的：\n```json\n{"queries": ["甲", "乙"]}\n```\n以上。', [Written("甲"), Written("乙")]),
        ('[{"question": "甲"}, {"问题": "乙"}]', [Written("甲"), Written("乙")]),
        ('<think>{"queries": ["想"]}</think>{"queries": ["甲"]}', [Written("甲")]),
        ('<think>没有想完 {"queries": ["想"]}', None),
        ('[注] {"queries": ["甲"]}', [Written("甲")]),
        ('{"note": 1} {"queries": ["甲"]}', [Written("甲")]),
        ("1. 甲是什么？\n2、乙在哪？\n- 丙", [Written("甲是什么？"), Written("乙在哪？"), Written("丙")]),
        ('{"queries": ["甲", "乙', None),  # cut off: half an object is no answer
        ('{"queries": ["A: 一\nB: 二"]}', [Written("A: 一\nB: 二")]),  # a line break that should be escaped
        ('{"queries": ["\\ud83d", " 甲 ", ""]}', [Written("甲")]),
        ('{"queries": []}', []),
        ("对不起", None),
        ("", None),
        ("[" * 5000, None),
    ],
)
def test_answers_are_read_as_models_write_them(text, expected):
    if expected is None:
        with pytest.raises(Garbage):
            read_answer(text)
    else:
        assert read_answer(text) == expected


def test_our_prompts_are_whole_and_serve_every_task():
    prompts = read_prompts(PROMPTS)
    for task in (*prompts.tasks, "of_the_user"):
        user = prompts.messages(task, "段落{count}", 7)[1]["content"]
        assert "段落{count}" in user
        assert "7 " in user
        assert '"queries"' in user


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: {qa: 写问题}", r"tasks: qa: got '写问题', expected a text with \{passage\}"),
        ("task: {}", "expected `tasks:`"),
        ("tasks: {qa: '{passage}'}\nsytem: x", "unknown name 'sytem'; did you mean 'system'"),
        ("tasks: {qa: '{passage}'}\nrefuse: 本文", "refuse: got '本文', expected a list"),
        ("tasks: [", "not valid YAML"),
    ],
)
def test_wrong_prompts_are_refused(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / "p.yaml")


def test_a_task_without_a_prompt_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("tasks: {law: '{passage}'}", "utf-8")
    with pytest.raises(UserError, match="unknown name 'lawn'; did you mean 'law'"):
        read_prompts(tmp_path / "p.yaml").messages("lawn", "x", 1)


# ---- which queries are kept ------------------------------------------------------------------------------------------

PASSAGE = Passage(
    "d#1",
    "d",
    ("标题",),
    "",
    "对象存储的单个文件最大为五十太字节，超过时请求会失败并返回错误代码，分片上传没有这个限制。",
)
OTHER = Passage("d#2", "d", (), "", "块存储挂在云主机上，像一块硬盘。")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("对象存储的文件最大多大？", ""),
        ("多大？", "short"),
        ("大" * 41, "long"),
        ("本文说的文件最大多大？", "refers"),
        ("单个文件最大为五十太字节超过时请求会失败", "copied"),
        ("单个文件最大为五十太字节", ""),  # short enough for somebody to type
    ],
)
def test_queries_are_judged_by_themselves(query, reason):
    (found,) = judged([(PASSAGE, "qa", [Written(query)])], FilterLimits(longest=40, refuse=["本文"], copied=20))
    assert found.reason == reason


def test_near_copies_within_a_document_are_refused_and_other_tasks_are_apart():
    first, second = "对象存储里单个文件最大可以有多大", "对象存储里单个文件最大可以有多大呢"
    answers = [(PASSAGE, "qa", [Written(first), Written(second)]), (PASSAGE, "title", [Written(second)])]
    assert [query.reason for query in judged(answers, FilterLimits())] == ["", "repeated", ""]
    assert [query.reason for query in judged(answers, FilterLimits(near=1.0))] == ["", "", ""]
    elsewhere = Passage("e#1", "e", (), "", "x")
    answers = [(PASSAGE, "qa", [Written(first)]), (elsewhere, "qa", [Written(second)])]
    assert [query.reason for query in judged(answers, FilterLimits())] == ["", ""]


def test_one_query_of_two_passages_is_one_record_with_two_positives():
    answers = [(PASSAGE, "qa", [Written("文件最大多大？", "五十太")]), (OTHER, "qa", [Written("文件最大多大")])]
    (record,) = records_of(judged(answers, FilterLimits()), "q")
    assert record["pos"] == [PASSAGE.key, OTHER.key]
    assert record["answers"] == ["五十太"]
    assert (
        judged([(PASSAGE, "qa", [Written("文件最大多大？"), Written("文件最大多大")])], FilterLimits())[1].reason
        == "repeated"
    )


def test_a_query_that_finds_other_passages_first_is_refused(docs):
    def astray(prompt):
        return answer(prompt) if "北京" not in prompt else '{"queries": [{"query": "上海的小笼排长队吗"}]}'

    with Endpoint(astray) as server:
        output = generate(docs, server.url, "--round_trip", "1")
    (refused,) = [
        row for row in rows(output.with_name("q.jsonl.refused.jsonl")) if row["query"] == "上海的小笼排长队吗"
    ]
    assert (refused["reason"], refused["passage"], refused["rank"]) == ("not_found", "0.md#1", None)
    assert all("小笼排长队" not in record["query"] for record in rows(output))


def test_ranks_are_those_of_the_retriever(tiny_bert):
    from zh_embedder.models.encoder import Encoder

    keys = [text_of(city, dish) for city, dish in CITIES.items()]
    passages = [Passage(f"{n}#1", str(n), (), "", key) for n, key in enumerate(keys)]
    queries = [GeneratedQuery(f"{city}早晨", "qa", passage) for city, passage in zip(CITIES, passages, strict=True)]
    assert ranks_of(queries, keys, hits=3) == [1] * len(keys)  # its city is in no other passage
    encoder = Encoder.from_pretrained(tiny_bert)
    scores = encoder.encode([query.text for query in queries]) @ encoder.encode(keys).T
    ranks = [1 + sum(other > row[place] for other in row) for place, row in enumerate(scores)]
    assert ranks_of(queries, keys, hits=4, model=load_retriever(str(tiny_bert))) == [
        r if r <= 4 else None for r in ranks
    ]
    assert len(set(ranks)) > 1


# ---- the ledger ------------------------------------------------------------------------------------------------------


def test_two_processes_do_not_share_a_ledger(tmp_path):
    first = Ledger(tmp_path / "l.jsonl")
    with pytest.raises(UserError, match="another process is writing it"):
        Ledger(tmp_path / "l.jsonl")
    first.add(Entry(key="a", passage="p", task="qa", state="answered"))
    first.close()
    again = Ledger(tmp_path / "l.jsonl")
    assert list(again.entries) == ["a"]
    again.close()


@pytest.mark.parametrize("line", ["nothing", '{"key": "a"}', '{"key":"a","passage":"p","task":"q","state":"odd"}'])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    (tmp_path / "l.jsonl").write_text(f"{line}\n", "utf-8")
    with pytest.raises(UserError, match=r"l\.jsonl:1: no entry of a ledger"):
        Ledger(tmp_path / "l.jsonl")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--extra_body", "[1]"), "--extra_body: got '\\[1\\]'"),
        (("--words", "jeiba"), "did you mean 'jieba'"),
        (("--passage_chars", "5"), "--passage_chars"),
        (("--concurrency", "0"), "--concurrency"),
        (("--max_cost", "1"), "--prices"),
    ],
)
def test_flags_that_cannot_be_are_refused(docs, capsys, flags, message):
    generate(docs, "http://127.0.0.1:9/v1", *flags, expect=2)
    assert re.search(message, capsys.readouterr().err)


def test_outputs_do_not_lie_where_documents_are_read(docs, capsys):
    for flags in (
        ["--output", str(docs / "q.jsonl")],
        ["--output", str(docs.parent / "q.jsonl"), "--output_corpus", str(docs / "new" / "c.jsonl")],
    ):
        assert main([str(docs), *flags, "--model", "m"]) == 2
        assert f"lies in the input {docs}, expected a place outside it" in capsys.readouterr().err


def test_a_wrong_retriever_is_said_before_anything_is_asked(docs, capsys):
    with Endpoint(answer) as server:
        generate(docs, server.url, "--retriever", str(docs / "nowhere"), expect=2)
    assert server.requests == []
    assert "nowhere" in capsys.readouterr().err


def test_a_task_without_a_prompt_of_its_own_is_said(docs, capsys):
    with Endpoint(answer) as server:
        generate(docs, server.url, "--tasks", "tittle")
    assert (
        "--tasks tittle: has no prompt of its own, `default` is used; did you mean 'title'?" in capsys.readouterr().err
    )


def test_the_model_must_be_named(docs, capsys):
    assert main([str(docs), "--output", "q.jsonl"]) == 2
    assert "--model: is missing" in capsys.readouterr().err


@pytest.mark.real
def test_questions_that_people_wrote_come_back_through_a_server_in_trouble(real_data, tmp_path):
    source = real_data / "raw" / "cmrc2018" / "cmrc2018_trial.json"
    assert write_documents(source, tmp_path / "docs") == 256
    asked = recorded(source)
    with Endpoint(asked, lambda number: [None, None, "429", None, "garbage", "cut"][number % 6]) as server:
        output = generate(tmp_path / "docs", server.url, "--limit", "40", "--concurrency", "4")
    records = rows(output)
    assert len(records) > 40
    assert all(any(answer in pos for pos in record["pos"]) for record in records for answer in record["answers"][:1])
