"""Published command lines mean here what they meant there, and whatever is made of a flag is said once."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from zh_embedder.config.evaluation import EvalArguments
from zh_embedder.config.model import ModelArguments
from zh_embedder.config.published import JOINED, NEEDLESS, NOT_YET, SPECIAL, split_flags, translate
from zh_embedder.config.train import DataArguments, TrainArguments
from zh_embedder.core.errors import UserError
from zh_embedder.core.spellings import TRAINING as RENAMED
from zh_embedder.text.prefix import as_prefix

OURS = {f.name for cls in (DataArguments, ModelArguments, TrainArguments, EvalArguments) for f in fields(cls) if f.init}

# Fields of transformers 4.57's TrainingArguments that transformers 5 has no more.
DROPPED = """
    overwrite_output_dir per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir
    save_safetensors no_cuda use_mps_device jit_mode_eval use_ipex fp16_opt_level half_precision_backend
    tpu_num_cores tpu_metrics_debug past_index fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap adafactor
    group_by_length use_legacy_prediction_loop include_inputs_for_metrics fp16_backend push_to_hub_model_id
    push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope include_tokens_per_second
    evaluation_strategy dispatch_batches split_batches
"""

# The others: flags of published commands that must still be there.
KEPT = """
    output_dir do_train do_eval do_predict eval_strategy prediction_loss_only per_device_train_batch_size
    per_device_eval_batch_size gradient_accumulation_steps eval_accumulation_steps eval_delay
    torch_empty_cache_steps learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
    num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_steps log_level log_level_replica
    log_on_each_node logging_strategy logging_first_step logging_steps logging_nan_inf_filter save_strategy
    save_steps save_total_limit save_on_each_node save_only_model restore_callback_states_from_checkpoint
    use_cpu seed data_seed bf16 fp16 bf16_full_eval fp16_full_eval tf32 local_rank ddp_backend debug
    dataloader_drop_last eval_steps dataloader_num_workers dataloader_prefetch_factor run_name disable_tqdm
    remove_unused_columns label_names load_best_model_at_end metric_for_best_model greater_is_better
    ignore_data_skip fsdp fsdp_config accelerator_config parallelism_config deepspeed label_smoothing_factor
    optim optim_args length_column_name report_to project trackio_space_id ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers dataloader_pin_memory dataloader_persistent_workers
    skip_memory_metrics push_to_hub resume_from_checkpoint hub_model_id hub_strategy hub_token hub_private_repo
    hub_always_push hub_revision gradient_checkpointing gradient_checkpointing_kwargs include_for_metrics
    eval_do_concat_batches auto_find_batch_size full_determinism ddp_timeout torch_compile torch_compile_backend
    torch_compile_mode include_num_input_tokens_seen neftune_noise_alpha optim_target_modules batch_eval_metrics
    eval_on_start use_liger_kernel liger_kernel_config eval_use_gather_object average_tokens_across_devices
"""


# ---- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_flag_arrives_under_a_name_that_exists_and_is_said_once(old):
    out = translate([f"--{old}", "7"])
    assert RENAMED[old] in OURS
    assert out.argv == [f"--{RENAMED[old]}", "7"]
    assert out.notes == [f"--{old} is --{RENAMED[old]}"]


@pytest.mark.parametrize("old", NEEDLESS)
def test_a_needless_flag_changes_nothing_and_is_said_once(old):
    out = translate([f"--{old}", "True"])
    assert (out.argv, out.notes) == ([], [f"--{old} changes nothing: {NEEDLESS[old]}"])


@pytest.mark.parametrize("name", NOT_YET)
def test_a_flag_that_is_not_built_yet_is_refused_by_name_unless_it_asks_for_nothing(name):
    with pytest.raises(UserError) as error:
        translate([f"--{name}", "something"])
    assert str(error.value) == f"--{name}: {NOT_YET[name]}"
    for nothing in ("False", "none", "-1", ""):
        out = translate([f"--{name}", nothing])
        assert (out.argv, out.notes) == ([], [f"--{name} {nothing} changes nothing"])


@pytest.mark.parametrize("name", ["ranker", "unified_finetuning", "group_by_length"])
def test_a_switch_that_is_not_built_yet_is_refused_alone_too(name):
    with pytest.raises(UserError, match=f"^--{name}: "):
        translate([f"--{name}"])


def test_no_flag_stands_in_two_tables():
    tables = [set(RENAMED), set(NEEDLESS), set(NOT_YET), set(SPECIAL), set(JOINED)]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert not (set(RENAMED) | set(NEEDLESS) | set(NOT_YET)) & OURS


@pytest.mark.parametrize("name", DROPPED.split())
def test_a_flag_that_transformers_5_dropped_is_translated_or_refused_by_name(name):
    assert name not in {f.name for f in fields(TrainingArguments)}
    assert name in {*RENAMED, *SPECIAL, *JOINED, *NEEDLESS, *NOT_YET} | OURS


@pytest.mark.parametrize("name", KEPT.split())
def test_a_flag_that_transformers_5_kept_is_passed_on_untouched(name):
    out = translate([f"--{name}", "True"])
    assert (out.argv, out.notes) == ([f"--{name}", "True"], [])
    assert name in OURS


# ---- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "ours"),
    [
        ("--warmup_ratio 0.1", "--warmup_steps 0.1"),
        ("--warmup_ratio 0", "--warmup_steps 0"),
        ("--sentence_pooling_method last_token", "--pooling_method last_token"),
        ("--normalize_embeddings True", "--dense_metric cos"),
        ("--normalize_embeddings", "--dense_metric cos"),
        ("--normalize_embeddings False", "--dense_metric ip"),
        ("--same_dataset_within_batch True", "--inbatch_same_dataset epoch"),
        ("--same_dataset_within_batch", "--inbatch_same_dataset epoch"),
        ("--same_dataset_within_batch False", ""),
        ("--gradient_checkpointing", "--gradient_checkpointing True"),
        ("--gradient_checkpointing false", "--gradient_checkpointing False"),
        ("--knowledge_distillation False", "--knowledge_distillation False"),
        ("--logging_dir runs/a", "--tensorboard_dir runs/a"),
        ("--sub_batch_size 32", "--sub_batch_size 32"),
        ("--sub_batch_size none", ""),
        ("--sub_batch_size -1", ""),
        ("--use_mrl True --mrl_dims 64 32", "--matryoshka_dims 64 32"),
        ("--use_mrl --mrl_dims 64", "--matryoshka_dims 64"),
        ("--use_mrl False --mrl_dims 64 32", ""),
        ("--use_lora True --lora_rank 8", "--lora_rank 8"),
        ("--use_lora", "--lora_rank 64"),
        ("--use_lora False", ""),
        ("--pooling_method decoder", "--pooling_method last_token"),
        ("--pooling_method cls dense", "--pooling_method cls dense"),
        ("--no_cuda", "--use_cpu"),
        ("--max_steps -1", "--max_steps=-1"),  # a dash in a value must not look like a flag
        ("--query-max-len=64 --fp16", "--query_max_length 64 --fp16"),
    ],
)
def test_an_old_flag_becomes_ours(old, ours):
    assert translate(old.split()).argv == ours.split()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--warmup_ratio 1.5", "--warmup_ratio: got 1.5, expected a number of 0 or more and below 1"),
        ("--warmup_ratio much", "--warmup_ratio: got 'much', expected a number of 0 or more and below 1"),
        ("--warmup_ratio nan", "--warmup_ratio: got nan, expected a number of 0 or more and below 1"),
        ("--warmup_ratio", "--warmup_ratio: got '', expected one value"),
        ("--use_mrl True", "--use_mrl: needs --mrl_dims"),
        ("--use_lora False --lora_rank 8", "--use_lora: got False together with --lora_rank"),
        ("--normalize_embeddings perhaps", "--normalize_embeddings: got 'perhaps', expected True or False"),
        ("--knowledge_distillation 2", "--knowledge_distillation: got '2', expected True or False"),
        ("--sub_batch_size 1 2", "--sub_batch_size: got '1 2', expected one value"),
        ("train.jsonl --output_dir x", "command line: got 'train.jsonl', expected flags"),
    ],
)
def test_a_value_that_an_old_flag_cannot_have_is_refused(argv, expected):
    with pytest.raises(UserError) as error:
        translate(argv.split())
    assert str(error.value).startswith(expected)


OLD_AND_OWN = [
    ("--query_max_len 5", "--query_max_length 7"),
    ("--model_name_or_path a", "--query_encoder b"),
    ("--no_cuda False", "--use_cpu True"),
    ("--warmup_ratio 0.5", "--warmup_steps 100"),
    ("--sentence_pooling_method cls", "--pooling_method mean"),
    ("--normalize_embeddings False", "--dense_metric l2"),
    ("--same_dataset_within_batch True", "--inbatch_same_dataset random"),
    ("--logging_dir a", "--tensorboard_dir b"),
    ("--query_instruction_for_retrieval a", "--query_instruction b"),
    ("--passage_instruction_for_retrieval a", "--key_instruction b"),
]


@pytest.mark.parametrize(("old", "own"), OLD_AND_OWN)
def test_our_own_flag_wins_over_its_old_spelling_wherever_it_stands(old, own):
    gives_way = f"{old.split()[0]} is overridden by {own.split()[0]}"
    for argv in (f"{old} {own}", f"{own} {old}"):
        out = translate(argv.split())
        assert (out.argv, out.notes) == (own.split(), [gives_way])


def test_a_switch_turned_off_by_its_no_form_wins_over_the_old_spelling_too():
    assert translate(["--negatives_cross_device", "--no_negative_cross_device"]).argv == ["--no_negative_cross_device"]


# ---- distillation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "contrastive", "distill"),
    [
        ("--knowledge_distillation True", "1", "1"),
        ("--knowledge_distillation", "1", "1"),
        ("--knowledge_distillation --kd_loss_type kl_div", "1", "1"),
        ("--kd_loss_type m3_kd_loss --knowledge_distillation True", "0", "1"),
        ("--knowledge_distillation True --contrastive_weight 0.3", "0.3", "1"),
        ("--distill_weight 2 --knowledge_distillation True", "1", "2"),
        ("--knowledge_distillation False --kd_loss_type m3_kd_loss", None, None),
        ("--kd_loss_type m3_kd_loss", None, None),
    ],
)
def test_flag_embeddings_distillation_brings_its_own_weights(argv, contrastive, distill):
    flags = dict(split_flags(translate(argv.split()).argv))
    assert flags.get("contrastive_weight", [None]) == [contrastive]
    assert flags.get("distill_weight", [None]) == [distill]


# ---- instructions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("{}{}", "检索："),
        ("{}: {}", "检索：: "),
        (r"Instruct: {}\nQuery: {}", "Instruct: 检索：\nQuery: "),
        ("Instruct: {}\nQuery: {}", "Instruct: 检索：\nQuery: "),
        ("{0}{1}", "检索："),
        ("{{{}}}{}", "{检索：}"),
    ],
)
def test_a_format_and_an_instruction_become_the_prefix_that_the_format_puts_first(template, prefix):
    assert as_prefix("检索：", template, flag="--f") == prefix
    # FlagEmbedding's own way from (instruction, text) to what is encoded:
    assert as_prefix("检索：", template, flag="--f") + "文" == template.replace("\\n", "\n").format("检索：", "文")


def test_braces_in_an_instruction_are_plain_characters():
    assert as_prefix("给 {text} 和 {}：", "{}{}", flag="--f") == "给 {text} 和 {}："


@pytest.mark.parametrize("template", ["{}{}。", "{1}{0}", "{}", "", "{}{}{}", "{}{text}", "{}{", "{0}{1}{1}"])
def test_a_format_that_is_no_prefix_is_refused(template):
    with pytest.raises(UserError, match=r"^--query_instruction_format: got "):
        translate(["--query_instruction_for_retrieval", "检索：", "--query_instruction_format", template])


@pytest.mark.parametrize(("side", "ours"), [("query", "query"), ("passage", "key")])
def test_the_instruction_flags_are_joined_in_any_order(side, ours):
    parts = [f"--{side}_instruction_for_retrieval=查：", rf"--{side}_instruction_format={{}}\n{{}}"]
    for argv in (parts, parts[::-1]):
        out = translate(argv)
        assert out.argv[:2] == [f"--{ours}_instruction", "查：\n"]
        assert out.notes == [f"--{side}_instruction_for_retrieval is --{ours}_instruction '查：\\n'"]


def test_an_empty_instruction_is_an_instruction():
    assert translate(["--query_instruction_for_retrieval", ""]).argv == ["--query_instruction", ""]


def test_a_format_without_an_instruction_changes_nothing_and_says_so():
    out = translate(["--passage_instruction_format", "{}{}"])
    assert out.argv == []
    assert out.notes == ["--passage_instruction_format changes nothing: there is no instruction"]


# ---- the command line -----------------------------------------------------------------------------------------------


def test_flags_are_split_from_their_values():
    assert split_flags(["--a", "--b-c=1", "--d", "x", "y", "--e=", "--f", "-1", "--g=a=b"]) == [
        ("a", []),
        ("b_c", ["1"]),
        ("d", ["x", "y"]),
        ("e", [""]),
        ("f", ["-1"]),
        ("g", ["a=b"]),
    ]


def test_no_note_repeats_a_secret():
    out = translate(["--push_to_hub_token", "hf_secret", "--hub_token", "hf_other"])
    assert "hf_" not in " ".join(out.notes)
    assert "hf_" not in " ".join(translate(["--push_to_hub_token", "hf_secret"]).notes)


def test_the_query_format_serves_the_prompts_of_records_too():
    out = translate(
        ["--query_instruction_for_retrieval", "找答案", "--query_instruction_format", "Instruct: {}\\nQuery: {}"]
    )
    values = dict(zip(out.argv[::2], out.argv[1::2], strict=True))
    assert values == {"--query_instruction": "Instruct: 找答案\nQuery: ", "--prompt_format": "Instruct: {}\\nQuery: {}"}
