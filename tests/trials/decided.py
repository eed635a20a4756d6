"""Trials whose expectation we do not share: the case stays as its author wrote it, and here is why it ends otherwise.

None of these may end in a bug, damage an input or leave something behind: only the words of a message, or whether an
odd input is refused, were decided differently. Those under OPEN are right, and we do not say it yet.
"""

SOFT = ("silent", "unclear", "wrong_exit")  # verdicts that a decision may explain
OTHER_MISTAKE = "the case holds another mistake too, which is named first"
CLEAR = "the message is clear, in other words"

DECIDED: dict[str, str] = {
    "train: --sub_batch_size 0": "FlagEmbedding's spelling of none: accepted, and a line says so",
    "train: the same matryoshka size twice": CLEAR,
    "train: metric file of a stranger as log_path folder": OTHER_MISTAKE,
    "train: history without scores": "no record of the file has scores, so the file is the place, not a line",
    "train: one label only": OTHER_MISTAKE,
    "train: use_train_config with an unknown setting": OTHER_MISTAKE,
    "train: a loss option of the wrong type in YAML": OTHER_MISTAKE,
    "train: emoji, tabs, HTML and right-to-left texts": "nano-zh does not know 29% of the characters: --max_unknown 1",
    "train: limits at their border": "--task_temperature 0 needs --inbatch_same_dataset",
    "train: teacher scores and evaluation together, as a whole": "--teacher_temperature auto needs same-dataset steps",
    "train: --learning_rate 0": "no step would change anything: more likely a slip than a wish",
    "pretrain: a base of the hub, without a network": OTHER_MISTAKE,
    "evaluate: set: queries without judgements": OTHER_MISTAKE,
    "encode: no side where sides differ": OTHER_MISTAKE,
    "encode: text is missing in one line": "`query` is one of the documented names of the field",
    "export: out is the encoder": "an encoder may be exported onto itself, with --overwrite",
    "losses: ''": CLEAR,
    "vocabulary: text is a list": "lists are joined, as documented for a line's text",
    "new-base: a hidden size that the base does not have": OTHER_MISTAKE,
    "environment: OMP_NUM_THREADS that is no number": "refused: libgomp would use all cores without a word",
    "convert: squad: a list": "a bare list of articles is read",
    "convert: pairs: three columns of text": CLEAR,
    "split: two files of one name": "a line says that the file is given twice; each gets part files of its own",
    "split: more than there are": "refused: nothing would be left for `rest`",
    "pairs: --without nope": CLEAR,
    "score: an embedder as language model": OTHER_MISTAKE,
    "score: prompts that are missing": OTHER_MISTAKE,
    "generate: no endpoint": "the key that is missing is named first, with the host that wants it",
    "generate: an overlap as long as a passage": OTHER_MISTAKE,
    "generate: a task twice": "a repeated task is asked about once",
    "module: data_tools.convert on a missing file": OTHER_MISTAKE,
    "top: no command at all": "the overview of all commands, exit code 0",
    "second: train: the version lets the teacher pick, the records have no scores": OTHER_MISTAKE,
    "second: train: a key encoder of another size": OTHER_MISTAKE,
    "second: train: a task with a slash and an emoji, of a version of one's own": "tasks become names of prompts",
    "second: convert: mongoexport's ids": "objects never become texts: --columns id=... names another field",
    "second: versions: merge keys of YAML": "refused with the line: merge keys are not plain values",
    "second: export: an export over itself": "an encoder may be exported onto itself, with --overwrite",
}
OPEN: dict[str, str] = {
    "second: train: the tokenizer of another base": "its pieces are not compared with those of the base",
    "second: train: a temperature of cosines with inner products": "a flag without effect",
    "second: train: the base in two spellings": "two older spellings of one flag",
    "second: train: the temperature in two spellings": "two older spellings of one flag",
    "second: train: an instruction for records without a task, all have one": "a flag without effect",
    "second: train: a default task that the version lacks": "a flag without effect",
    "second: train: the version weighs a dataset that is not there": "a setting without effect",
    "second: evaluate: set: a task on the command line against the set's own": "a flag without effect",
    "second: evaluate: set: a folder of two kinds": "files of another kind in a set's folder",
    "second: evaluate: labels 1 and '1' in one set": "two spellings of one label",
    "second: encode: texts under two names of fields": "lines of two kinds in one file",
    "second: export: a prompt that became a number": "numbers become texts",
    "second: split: sets of pairs and labels": "--eval writes no sets of pairs and labels",
    "second: mine: answers to filter by that no record has": "a flag without effect",
    "second: mine: an instruction and none": "a flag without effect",
    "second: mine: an instruction for BM25": "a flag without effect",
    "second: score: prompts for an embedder": "a flag without effect",
    "second: new-base: a corpus in another script than the vocabulary": "the share of unknown characters of the corpus",
}
