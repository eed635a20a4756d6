#!/bin/sh
# nano-zh out of multilingual-e5-small and plain text: sh examples/nano/build.sh DATA [OUT]
# DATA holds corpus_general/ and the evaluation sets as DATA/*/*/test; OUT (nano-build) gets every intermediate result.
# A step whose result is there is not done again. docs/measured/bases.md has the times, and what each step brings.
set -eu
DATA=${1:?usage: sh examples/nano/build.sh DATA [OUT]}
OUT=${2:-nano-build}
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"

# 1. Pairs that the corpus gives away, without those that share 13 letters in a row with a test query or a relevant key;
#    then the proof that none is left, by other code.
test -f "$OUT/pairs/tech_lctt.jsonl" || python -m data_tools.make_pairs "$DATA"/corpus_general/*.zst \
  --output_dir "$OUT/pairs" --overwrite --seed 0 --max_pairs 150000 --without "$DATA"/*/*/test
test -f "$OUT/proof.txt" || {
  python "$HERE/prove.py" "$OUT"/pairs/*.jsonl --tests "$DATA"/*/*/test >"$OUT/proof.partial"
  mv "$OUT/proof.partial" "$OUT/proof.txt"
}
cat "$OUT/proof.txt"

# 2. The start: multilingual-e5-small with the pieces that Chinese text uses, Traditional read as Simplified.
test -d "$OUT/start" || zh-embedder shrink e5-small --output_dir "$OUT/start" --pieces 15000 --fold_traditional \
  --corpus "$DATA"/corpus_general/*.zst --documents 4000

# 3. The pairs.
test -f "$OUT/paired/encoder/config.json" || python run_dense.py --output_dir "$OUT/paired" --overwrite \
  --query_encoder "$OUT/start" --version e5 --default_task default --train_data "$OUT"/pairs/*.jsonl \
  --inbatch_same_dataset epoch --train_group_size 1 --cos_temperature 0.03 --query_max_length 160 --key_max_length 160 \
  --per_device_train_batch_size 64 --learning_rate 5e-5 --warmup_steps 20 --max_steps 300 --save_steps 100 \
  --logging_steps 25 --report_to none

# 4. The package: half precision, then six bits, with its card.
test -d "$OUT/nano_zh" || {
  zh-embedder export "$OUT/paired" "$OUT/nano_zh" --half
  python -c "import pathlib, sys; from zh_embedder.bases.six_bits import pack_folder; pack_folder(pathlib.Path(sys.argv[1]))" "$OUT/nano_zh"
  cp "$OUT"/start/zh_embedder.json "$OUT"/start/config_sentence_transformers.json "$OUT/nano_zh/" # not the tasks of the pairs
}
cp "$HERE/card.md" "$OUT/nano_zh/README.md"
