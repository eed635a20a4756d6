"""Pretraining trainer: the loss of a step, and the measurement of held-out windows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zh_embedder.config.run import RunArguments
from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import sum_over_ranks
from zh_embedder.core.errors import UserError
from zh_embedder.core.machine import DTYPES
from zh_embedder.core.progress import Bar
from zh_embedder.data.loader import PlanLoader
from zh_embedder.models.folders import QUERY_FOLDER
from zh_embedder.pretraining.batches import (
    FIXED_EPOCH,
    Chosen,
    TokenBatches,
    WindowBatch,
    WindowCollator,
    WindowRequest,
)
from zh_embedder.pretraining.model import MaskedLM, Predicted
from zh_embedder.training.base_trainer import BaseTrainer
from zh_embedder.training.meter import Work

logger = logging.getLogger(__name__)

SHOWN_ROWS = 32  # of a step, in messages
BEST = "eval_loss"


class Pretrainer(BaseTrainer):
    """Trains a MaskedLM on steps of about as many tokens each."""

    def __init__(
        self,
        model: MaskedLM,
        args: RunArguments,
        *,
        rows: Chosen,
        held_out: Chosen,
        tokens_per_rank: int,
        fingerprint: Mapping[str, Any],
        settings: str,
    ) -> None:
        self.rows, self.held_out, self.tokens_per_rank = rows, held_out, tokens_per_rank
        self.fingerprint = dict(fingerprint)
        self.collator = WindowCollator(rows.rows.rule.hidden)
        super().__init__(
            model, args, settings=settings, train_dataset=rows, eval_dataset=held_out if len(held_out) else None
        )

    # ---- data -----------------------------------------------------------------------------------------------------

    def batches(self) -> TokenBatches:
        """Return the steps of this rank."""
        return TokenBatches(
            self.rows.lengths(),
            tokens_per_rank=self.tokens_per_rank,
            rank=self.args.process_index,
            ranks=self.args.world_size,
            seed=self.args.order_seed,
        )

    def get_train_dataloader(self) -> PlanLoader:
        """Return a loader of this rank's steps."""
        return self.loader(self.rows, self.batches(), self.collator)

    def describe_rows(self, rows: tuple[int, ...]) -> str:
        """Name the documents of a step, for messages."""
        found = list(dict.fromkeys(self.rows.where(row) for row in rows))
        more = f" and {len(found) - SHOWN_ROWS} more" if len(found) > SHOWN_ROWS else ""
        return f"windows of {', '.join(found[:SHOWN_ROWS])}{more}"

    # ---- the step -------------------------------------------------------------------------------------------------

    def compute_loss(self, model: nn.Module, inputs: WindowBatch, return_outputs: bool = False, **_: Any) -> Tensor:
        """Mean over the predicted tokens of the whole step: this rank's sum, times the ranks that DDP divides by."""
        if not self.meter.datasets and self.state.global_step == self._initial_global_step:
            logger.info("engine: %s, %s", type(model).__name__, counted(self.args.world_size, "rank"))
        found: Predicted = model(inputs)
        ranks, own = self.args.world_size, counts(inputs)
        step = sum_over_ranks(own.to(found.loss.device)).clamp(min=1)
        losses = {"mlm": ranks * found.loss / step[0]}
        if inputs.decoded is not None:
            losses["decoder"] = ranks * found.decoder_loss / step[1]
        loss = torch.stack(list(losses.values())).sum()
        self.step_guard.see(loss.detach(), step=self.state.global_step + 1, rows=inputs.step_rows)
        work = self.work(inputs)
        for place, (name, value) in enumerate(losses.items()):
            right = (found.right, found.decoder_right)[place]
            self.meter.step(name, 0, value, work, {"queries": own[place].to(right.device), "accuracy": right})
            work = Work()
        return loss

    def work(self, inputs: WindowBatch) -> Work:
        """Return what a step has to do on this rank, and what is done."""
        encoder, sizes = self.model.encoder, inputs.tokens.sizes
        return Work(
            texts=len(sizes),
            tokens=sum(sizes),
            computed_tokens=encoder.computed_tokens(sizes, DTYPES[self.args.dtype]),
            padded_tokens=len(sizes) * max(sizes),
            operations=3 * self.model.operations(sizes, *counts(inputs).tolist()),
        )

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def parts_of_held_out(self) -> Iterator[list[int]]:
        """Yield this rank's windows in batches of bounded tokens, the longest first."""
        lengths = self.held_out.lengths()
        order = np.argsort(-lengths, kind="stable")[self.args.process_index :: self.args.world_size].tolist()
        batch, tokens = list[int](), 0
        for row in order:
            if batch and tokens + lengths[row] > self.tokens_per_rank:
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += int(lengths[row])
        if batch:
            yield batch

    def measure(self) -> dict[str, float]:
        """Measure the windows held out, each rank its share, with the same masks at every step."""
        sums = torch.zeros(6, dtype=torch.float64)  # loss, right, count: of masked words, then of the decoder
        training, device = self.model.training, self.args.device
        self.model.eval()
        bar = Bar(len(self.held_out) // self.args.world_size, shown=self.args.process_index == 0)
        with torch.no_grad(), bar:
            for rows in self.parts_of_held_out():
                batch = self.collator([self.held_out[WindowRequest(FIXED_EPOCH, row, True, ())] for row in rows])
                with self.compute_loss_context_manager():
                    found: Predicted = self.model(batch.to(device))
                values = [*found[:2], counts(batch)[0], *found[2:], counts(batch)[1]]
                sums += torch.tensor([float(value) for value in values], dtype=torch.float64)
                bar.advance(len(rows), sum(batch.tokens.sizes))
        self.model.train(training)
        totals = sum_over_ranks(sums.float().to(device)).tolist()
        return entries(*totals[:3], *totals[3:])

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure the windows held out; returns what the log gets."""
        if not len(self.held_out):
            return {}
        started, step = time.perf_counter(), self.state.global_step
        found = {f"{metric_key_prefix}_{name}": value for name, value in self.measure().items()}
        start = self.at_start(BEST)
        since = f", {found[BEST] - start:+.4f} since step 0" if start is not None and step else ""
        logger.info("step %d: held out: %s%s", step, shown(found), since)
        self.log(found | {f"{metric_key_prefix}_runtime": round(time.perf_counter() - started, 3)})
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self.meter.started += time.perf_counter() - started  # tokens/s are those of training
        return found

    def say_result(self) -> None:
        """Log what the run brought on the windows held out, with a warning where it brought nothing."""
        logged = [line for line in self.state.log_history if BEST in line]
        if len(logged) < 2 or logged[0].get("step") != 0:
            return
        first, last = logged[0], logged[-1]
        logger.info("held out: step 0: %s -> step %s: %s", shown(first), last["step"], shown(last))
        best = min(logged[1:], key=lambda line: line[BEST])
        if best[BEST] >= first[BEST]:
            logger.warning(
                "the loss on the documents held out has not fallen: %.4f at step 0, %.4f at best. A lower "
                "--learning_rate or more steps may help; a base that knows this text already gains nothing",
                first[BEST],
                best[BEST],
            )
        elif best is not last and not self.args.load_best_model_at_end:
            logger.warning(
                "the loss on the documents held out was lowest at step %s (%.4f) and rose again to %.4f: "
                "--load_best_model_at_end keeps the best step",
                best["step"],
                best[BEST],
                last[BEST],
            )

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def parts(self) -> Sequence[str]:
        """Folders of a run that hold its result."""
        return [QUERY_FOLDER]

    def plan(self) -> dict[str, Any]:
        """Return everything that the order of the data and its masks depend on."""
        return {
            **self.fingerprint,
            "tokens_per_step": self.tokens_per_rank * self.args.world_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "seed": self.args.order_seed,
        }

    def load_parts(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint."""
        if not (checkpoint / QUERY_FOLDER / "model.safetensors").is_file():
            raise UserError(f"--resume_from_checkpoint: {checkpoint} holds no {QUERY_FOLDER}/model.safetensors")
        self.model.load(checkpoint)


def counts(batch: WindowBatch) -> Tensor:
    """Predicted tokens of a batch: masked ones, and those of the decoder, (2,)."""
    return torch.tensor([len(batch.labels), 0 if batch.decoded is None else len(batch.decoded)])


def entries(loss: float, right: float, count: float, *decoder: float) -> dict[str, float]:
    """Turn sums over the tokens of all ranks into what the log gets."""
    mean = loss / max(1.0, count)
    found = {"loss": mean, "perplexity": math.exp(min(mean, 100.0)), "accuracy": right / max(1.0, count)}
    if decoder[2]:
        found |= {"decoder_loss": decoder[0] / decoder[2], "decoder_accuracy": decoder[1] / decoder[2]}
    return found


def shown(entry: Mapping[str, float]) -> str:
    """Lay a log entry of held-out windows out for people."""
    text = f"loss {entry[BEST]:.4f}, perplexity {entry['eval_perplexity']:.2f}, accuracy {entry['eval_accuracy']:.1%}"
    if "eval_decoder_loss" in entry:
        text += f"; decoder: loss {entry['eval_decoder_loss']:.4f}, accuracy {entry['eval_decoder_accuracy']:.1%}"
    return text
