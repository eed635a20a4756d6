#!/bin/sh
# nano-zh-static from nothing but text: sh examples/nano_static/build.sh DATA [OUT]
# DATA holds corpus_general/ and the evaluation sets as DATA/*/*/test; OUT (nano-build) gets every intermediate result.
# A step whose result is there is not done again. See docs/measured/nano_static.md for what each brings, and how long it takes.
set -eu
DATA=${1:?usage: sh examples/nano_static/build.sh DATA [OUT]}
OUT=${2:-nano-build}
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"

# 1. Pieces: characters, and the corpus' most frequent words.
test -d "$OUT/vocabulary" || python -m zh_embedder.vocabulary "$DATA"/corpus_general/*.zst \
  --output_dir "$OUT/vocabulary" --words 4500 --latin 900 --documents 1500

# 2. Pairs that the corpus gives away, without those that share 13 letters in a row with a test query or a relevant key;
#    then the proof that none is left, by other code.
for seed in 0 1 2; do
  test -f "$OUT/pairs/$seed/tech_lctt.jsonl" || python -m data_tools.make_pairs "$DATA"/corpus_general/*.zst \
    --output_dir "$OUT/pairs/$seed" --overwrite --seed $seed --max_pairs 150000 --without "$DATA"/*/*/test
done
test -f "$OUT/proof.txt" || {
  python "$HERE/../nano/prove.py" "$OUT"/pairs/*/*.jsonl --tests "$DATA"/*/*/test >"$OUT/proof.partial"
  mv "$OUT/proof.partial" "$OUT/proof.txt"
}
cat "$OUT/proof.txt"

# 3. A base that has learnt nothing yet: random directions, weighted by inverse document frequency.
test -d "$OUT/untrained" || python -m zh_embedder.new_base "$OUT/vocabulary" --corpus "$DATA"/corpus_general/*.zst \
  --output_dir "$OUT/untrained" --hidden_size 368 --num_heads 1

# 4. The pieces' vectors, without layers: large batches cost little.
train() { # NAME BASE FLAGS...
  name=$1 base=$2
  shift 2
  test -f "$OUT/$name/encoder/config.json" || python run_dense.py --output_dir "$OUT/$name" --overwrite \
    --query_encoder "$base" --train_data "$OUT"/pairs/*/*.jsonl --version none --inbatch_same_dataset epoch --train_group_size 1 \
    --cos_temperature 0.05 --logging_steps 50 --report_to none "$@"
}
train pieces "$OUT/untrained" --per_device_train_batch_size 1024 --learning_rate 5e-3 --num_train_epochs 2 \
  --save_steps 700 --warmup_steps 20 --query_max_length 256 --key_max_length 256

# 5. The package: a base without instructions again, in half precision, with its card.
test -d "$OUT/base" || python -m zh_embedder.new_base "$OUT/pieces" --output_dir "$OUT/base" --num_heads 1
python -m zh_embedder.export "$OUT/base" "$OUT/nano_zh_static" --half --overwrite
cp "$HERE/card.md" "$OUT/nano_zh_static/README.md"

# 6. What it finds, as it is and after a few minutes of fine-tuning; BM25 beside it.
test -f "$OUT/tuned/encoder/config.json" || python run_dense.py --output_dir "$OUT/tuned" --overwrite \
  --query_encoder "$OUT/nano_zh_static" --train_data "$DATA"/*/*/train.jsonl* --version none --inbatch_same_dataset epoch \
  --train_group_size 8 --per_device_train_batch_size 64 --max_steps 1200 --learning_rate 3e-3 --warmup_steps 20 \
  --cos_temperature 0.05 --task_temperature 0.5 --query_max_length 256 --key_max_length 512 \
  --save_steps 100000 --logging_steps 50 --report_to none
zh-embedder evaluate "$OUT/untrained" "$OUT/nano_zh_static" "$OUT/tuned" --data "$DATA"/*/*/test --metrics ndcg@10 --bm25 \
  --json "$OUT/scores.json"
