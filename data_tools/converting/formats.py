"""Table of source formats. To add one, write `read(source, options)` and list it in FORMATS."""

from __future__ import annotations

from collections.abc import Mapping

from data_tools.converting import dialogue, labelled, llama_index, pairs, passages, qa, records, tables, tools
from data_tools.converting.format_types import Format, Head

DIALOGUE_SHAPES = ("convsearch", "chat", "history")
DIALOGUE_TASKS = {"convsearch": "convsearch", "chat": "chat", "history": "chat"}

_ROWS = (
    Format(
        name="squad",
        about="SQuAD-style JSON (CMRC 2018, DRCD): question -> passage, with its answers, grouped by article",
        example='{"data": [{"id": "1", "paragraphs": [{"context": "...", "qas": [{"id": "1-1", "question": "...", '
        '"answers": [{"text": "..."}]}]}]}]}',
        unit="questions",
        read=qa.read_squad,
        tasks={"groups": "qa"},
        is_it=qa.is_squad,
    ),
    Format(
        name="beir",
        about="BEIR folder: queries.jsonl, corpus.jsonl, qrels/SPLIT.tsv or qrels.tsv",
        example='{"_id": "q1", "text": "..."}  {"_id": "d1", "title": "...", "text": "..."}  q1<TAB>d1<TAB>1',
        unit="queries",
        read=qa.read_beir,
        is_folder=True,
        is_it=qa.is_beir,
    ),
    Format(
        name="msmarco",
        about="MS MARCO and T2Ranking: a folder of collection.tsv, queries.SPLIT.tsv and qrels.SPLIT.tsv",
        example="pid<TAB>passage  qid<TAB>query  qid<TAB>0<TAB>pid<TAB>1",
        unit="queries",
        read=qa.read_msmarco,
        is_folder=True,
        is_it=qa.is_msmarco,
    ),
    Format(
        name="llama_index",
        about="llama-index's EmbeddingQAFinetuneDataset; --output_eval DIR writes it as an evaluation set as well",
        example='{"queries": {"q1": "..."}, "corpus": {"d1": "..."}, "relevant_docs": {"q1": ["d1"]}}',
        unit="queries",
        read=llama_index.read_llama_index,
        write_evaluation=llama_index.write_evaluation,
        is_it=llama_index.is_llama_index,
    ),
    Format(
        name="pairs",
        about="sentence pairs with a score (LCQMC, AFQMC, BQ, PAWS-X, STS-B), with or without a header",
        example="一架飞机要起飞了<TAB>一架飞机正在起飞<TAB>5",
        unit="pairs",
        read=pairs.read_pairs,
        shapes=("pairs", "groups"),
        tasks={"pairs": "sts"},
        is_it=pairs.is_pairs,
    ),
    Format(
        name="nli",
        about="inference pairs (OCNLI, CMNLI, XNLI): premise -> what it entails, negatives what contradicts it",
        example='{"sentence1": "...", "sentence2": "...", "label": "entailment"}',
        unit="pairs",
        read=pairs.read_inference,
        shapes=("groups", "pairs"),
        tasks={"groups": "nli", "pairs": "sts"},
        is_it=pairs.is_inference,
    ),
    Format(
        name="labelled",
        about="texts with a label (TNEWS, IFLYTEK, THUCNews): as they are, or groups of same-label examples",
        example='{"label": "108", "label_desc": "news_edu", "sentence": "..."}',
        unit="texts",
        read=labelled.read_labelled,
        shapes=("labels", "icl"),
        tasks={"icl": "icl"},
        is_it=labelled.is_labelled,
    ),
    Format(
        name="kdconv",
        about="KdConv dialogues: turns and a question -> the fact used; or a later turn -> an earlier exchange",
        example='[{"name": "...", "messages": [{"message": "...", "attrs": [{"name": "...", "attrname": "...", '
        '"attrvalue": "..."}]}]}]',
        unit="turns",
        read=dialogue.read_kdconv,
        shapes=DIALOGUE_SHAPES,
        tasks=DIALOGUE_TASKS,
        is_it=dialogue.is_kdconv,
    ),
    Format(
        name="crosswoz",
        about="CrossWOZ dialogues, as JSON or the zip of it: as kdconv",
        example='{"11290": {"messages": [{"role": "usr", "content": "...", '
        '"dialog_act": [["Inform", "餐馆", "地址", "..."]]}]}}',
        unit="turns",
        read=dialogue.read_crosswoz,
        shapes=DIALOGUE_SHAPES,
        tasks=DIALOGUE_TASKS,
        is_it=dialogue.is_crosswoz,
    ),
    Format(
        name="acebench",
        about="ACEBench requests, answers under possible_answer/: request -> tools called, as name：description",
        example='{"id": "1", "question": "user: ...", "function": [{"name": "...", "description": "..."}]}',
        unit="requests",
        read=tools.read_acebench,
        tasks={"groups": "tool"},
        is_it=tools.is_acebench,
    ),
    Format(
        name="tool_calls",
        about="function calling in one object (xlam, OpenAI's layout): query, tools, answers",
        example='{"query": "...", "tools": [{"name": "...", "description": "..."}], "answers": [{"name": "..."}]}',
        unit="requests",
        read=tools.read_tool_calls,
        tasks={"groups": "tool"},
        is_it=tools.is_tool_calls,
    ),
    Format(
        name="tevatron",
        about="Tevatron's and DPR's records: a query with passages, whose titles go in front of their texts",
        example='{"query": "...", "positive_passages": [{"docid": "1", "title": "...", "text": "..."}], '
        '"negative_passages": [...]}',
        unit="records",
        read=passages.read_passages,
        is_it=passages.is_passages,
    ),
    Format(
        name="ms_swift",
        about="ms-swift's records of embedding models: a query, positives and negatives as chat messages",
        example='{"messages": [{"role": "user", "content": "..."}], "positive_messages": [[{"role": "user", '
        '"content": "..."}]], "negative_messages": [...]}',
        unit="records",
        read=passages.read_messages,
        shapes=("groups", "pairs"),
        is_it=passages.is_messages_record,
    ),
    Format(
        name="flagembedding",
        about="FlagEmbedding's records",
        example='{"query": "...", "pos": ["..."], "neg": ["..."], "pos_scores": [1.0], "neg_scores": [0.1]}',
        unit="records",
        read=records.read_flag_embedding,
        is_it=records.is_flag_embedding,
    ),
    Format(
        name="llm_embedder",
        about="LLM-Embedder's records",
        example='{"query": "...", "pos": ["..."], "neg": ["..."], "teacher_scores": [1.0, 0.1], "task": "qa"}',
        unit="records",
        read=records.read_llm_embedder,
        carries_task=True,
        is_it=records.is_llm_embedder,
    ),
    Format(
        name="sentence_transformers",
        about="columns of sentence-transformers in jsonl, csv, tsv, Parquet, a `save_to_disk` folder or hf:NAME",
        example='{"anchor": "...", "positive": "...", "negative_1": "..."}',
        unit="rows",
        read=tables.read_known,
        is_it=tables.is_known_table,
    ),
    Format(
        name="columns",
        about="any table with --columns (csv, tsv, jsonl, Parquet, saved folder, hf:NAME); numbers where no header",
        example="--columns query=title+ask pos=answer group=department",
        unit="rows",
        read=tables.read_columns,
    ),
)
FORMATS: Mapping[str, Format] = {row.name: row for row in _ROWS}


def guesses(head: Head) -> list[str]:
    """Return the formats that a source may be."""
    return [name for name, row in FORMATS.items() if row.is_it(head)]


def listing() -> str:
    """Lay the formats out."""
    blocks = []
    for own in FORMATS.values():
        shapes = f"\n    --as {' | '.join(own.shapes)}" if len(own.shapes) > 1 else ""
        blocks.append(f"{own.name}: {own.about}{shapes}\n    {own.example}\n")
    return "\n".join(blocks)
