"""What a search leaves when it ends: the network that was found, and its widths by layer."""

from __future__ import annotations

from pathlib import Path

from conet_graph.ir.errors import VerificationFailed, shown
from conet_graph.ir.load import load_model
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.rewriting.rewriting import save
from conet_graph.search.network import layer_widths
from conet_graph.search.run_folder import RunFolder
from conet_graph.verification.runtime import first_line, open_session


def write_found(folder: RunFolder, trial: int, fold: bool) -> None:
    """Write final.onnx and widths.json: a trial's widths, with the weights that it trained.

    They are the last trial's: every width in them has been trained and measured. What Algorithm 2 would
    have tried next has not.

    Args:
        folder: of the search.
        trial: its last finished trial.
        fold: fold the BatchNorms into the convolutions, as they were in the file that was searched.

    Raises:
        VerificationFailed: ONNX Runtime loads the original but not the result, which is then removed.

    """
    model = load_model(folder.trial(trial))
    if fold:
        model = fold_batchnorm(model)
    save(model, folder.final)
    fault = _load_fault(folder.final)
    if fault is not None and _load_fault(folder.original) is None:
        folder.final.unlink()
        raise VerificationFailed(f"ONNX Runtime does not load {shown(str(folder.final))}: {fault}")
    folder.save_widths(layer_widths(model))


def _load_fault(path: Path) -> str | None:
    try:
        open_session(path, fused=True)
    except Exception as error:
        return first_line(error)
    return None
