"""Models to keep and to share: a folder of config.json and model.safetensors, also on the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor

from qsample.problem.graph import Graph
from qsample.support.files import write_whole
from qsample.support.optional import DISTRIBUTION, needs

if TYPE_CHECKING:
    from qsample.models.energy import EnergyModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = "qsample model"
VERSION = 1
ARGUMENT = "arguments"  # before the names of tensors that are no weights, such as edges
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Pretrained:
    """A model that can be saved whole: class, graph with its labels, and weights."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model into a folder: `config.json` and `model.safetensors`, no pickles.

        The weights' file goes first; the configuration, which holds its SHA-256, last.

        Args:
            folder: folder of the model, made if missing; a model in it is replaced.

        Returns:
            The folder.

        Raises:
            ValueError: weights that are made by others (pruning, `parametrize`), labels that are no
                numbers, strings or tuples of them, or a class of your own without `arguments`.
            OSError: the folder cannot be written.
        """
        from safetensors.torch import save as to_bytes

        model = cast("EnergyModel", self)
        tensors: dict[str, Tensor] = {}
        arguments = {}
        for name, value in _arguments(model).items():
            arguments[name] = _to_json(value, f"{ARGUMENT}.{name}", tensors)
        for name, value in model.state_dict().items():
            tensors[name] = value.detach().cpu().contiguous()
        data = to_bytes(tensors)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "class": _own_class(model).__name__,
            "arguments": arguments,
            "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest()},
        }
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS, data)
        write_whole(folder / CONFIG, json.dumps(config, indent=1, allow_nan=False).encode() + b"\n")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        graph: Graph | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """The model that `save_pretrained` wrote, with its own graph, labels and precision.

        `EnergyModel.from_pretrained` takes every model of qsample, another class its own only. No
        code is loaded.

        Args:
            source: folder of the model, or the name of a repository of the Hugging Face Hub.
            graph: graph that the model must be on, labels included; None takes any.
            device: device of the model.
            revision: branch, tag or commit of the repository.
            token: access token of the Hub; None means the stored one.
            cache_dir: folder of the downloaded files; None means the Hub's own.

        Raises:
            ValueError: there is no such folder; it holds another class, another graph, or a file
                that is damaged or was replaced.
            ImportError: a repository was named, and huggingface-hub is not installed.
        """
        folder = _folder(source, revision=revision, token=token, cache_dir=cache_dir)
        config = _config(folder)
        kind = _class_of(folder, config, cls)
        data, tensors = _tensors(folder)
        model = _made(folder, config, kind, tensors)
        weights = {n: t for n, t in tensors.items() if not n.startswith(f"{ARGUMENT}.")}
        try:
            model.load_state_dict(weights)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise ValueError(
                f"{folder / WEIGHTS} holds weights of another model than {CONFIG} names: "
                f"{_last_line(error)}"
            ) from None
        if hashlib.sha256(data).hexdigest() != config["weights"]["sha256"]:
            raise ValueError(
                f"{folder / WEIGHTS} is damaged or was replaced: its SHA-256 is not the one in "
                f"{CONFIG}; save the model again"
            )
        if graph is not None:
            _check_graph(folder, model.graph, graph)
        return cast("Self", model.to(device))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Add the model",
    ) -> str:
        """Write the model into a repository of the Hugging Face Hub, which is made if missing.

        Args:
            repo_id: name of the repository, such as "user/digits".
            private: whether a new repository is private; None means the Hub's default.
            token: access token of the Hub; None means the stored one.
            revision: branch to write to; None means the main one.
            commit_message: message of the commit.

        Returns:
            The address of the commit.

        Raises:
            ImportError: huggingface-hub is not installed; the message says how to install it.
            ValueError: as `save_pretrained`.
        """
        with needs("hub", "push_to_hub"):
            from huggingface_hub import HfApi

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            card = _card(cast("EnergyModel", self), repo_id)
            (Path(folder) / "README.md").write_text(card)
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )
        return str(commit)


# ---- what is written ----------------


def _arguments(model: EnergyModel) -> dict[str, Any]:
    """What the model's constructor takes to make it again, or a ValueError."""
    from qsample.models.registry import has_plain_labels

    kind = _own_class(model).__name__
    if {name for name, _ in model.named_parameters()} != set(model.names):
        raise ValueError(
            f"cannot save a {kind} whose weights are made of others (pruning, parametrize): make "
            "them plain first, as by torch.nn.utils.parametrize.remove_parametrizations(model, 'W')"
        )
    if not has_plain_labels(model.graph):
        raise ValueError(
            "cannot save a graph whose labels are neither numbers nor strings nor tuples of them: "
            "Graph.sparse(n, edges, labels) makes one with others"
        )
    if not hasattr(model, "arguments"):
        raise ValueError(
            f"cannot save a {kind}, which does not say how it is made: give it a method "
            "arguments(), which returns what its constructor takes"
        )
    return model.arguments()  # pyright: ignore[reportReturnType, reportCallIssue]


def _own_class(model: Any) -> type:
    from qsample.models.energy import own_class

    return own_class(model)


def _to_json(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of an argument, its tensors put among the others."""
    from qsample.models.registry import stored

    value = stored(value)
    if isinstance(value, Tensor):
        tensors[name] = value.cpu().contiguous()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {key: _to_json(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"$tuple": [_to_json(item, name, tensors) for item in value]}
    if isinstance(value, list):
        return [_to_json(item, name, tensors) for item in value]
    return value


def _card(model: EnergyModel, repo_id: str) -> str:
    """The page of a repository: what the model is, and how it is loaded."""
    kind = _own_class(model).__name__
    return (
        "---\nlibrary_name: qsample\ntags:\n- energy-based-model\n- ising\n- boltzmann-machine\n"
        f"---\n\n# {repo_id}\n\n`{kind}`: {model.num_visible} visible and {model.num_hidden} "
        f"hidden units, {model.graph.kind} graph ({DISTRIBUTION}).\n\n```python\n"
        f"from qsample.models import {kind}\n\n"
        f'model = {kind}.from_pretrained("{repo_id}")\n```\n'
    )


# ---- what is read ----------------


def _folder(source: str | os.PathLike[str], **options: Any) -> Path:
    """The folder of the model, downloaded where it is a repository's name."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name = os.fspath(source)
    if isinstance(source, Path) or not _REPOSITORY.fullmatch(name):
        raise ValueError(f"no model at {folder}: expected a folder that save_pretrained wrote")
    with needs("hub", f"{name} is no folder here, and to load it from the Hub"):
        from huggingface_hub import snapshot_download
    try:
        files = [CONFIG, WEIGHTS]
        return Path(snapshot_download(name, allow_patterns=files, **options))
    except Exception as error:  # of the network, the Hub, or a name that is none
        raise ValueError(
            f"no model {name}: it is no folder here, and the Hub gave none ({_last_line(error)})"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """The configuration, of the right structure."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"no model in {folder}: expected {CONFIG} and {WEIGHTS} in it ({error.strerror})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: not JSON ({_last_line(error)})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        got = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path} is of no model of qsample: expected format {FORMAT!r}; got {got}")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{path} has format version {config.get('version')!r}: expected {VERSION}; a newer "
            "qsample may read it"
        )
    weights = config.get("weights")
    whole = isinstance(weights, dict) and isinstance(weights.get("sha256"), str)
    if not whole or not isinstance(config.get("arguments"), dict):
        raise ValueError(f"{path} is damaged: it lacks its arguments, or the SHA-256 of {WEIGHTS}")
    return config


def _class_of(folder: Path, config: dict[str, Any], asked: type) -> type:
    """The class that the folder holds, where it is the one that was asked for."""
    import qsample.models
    from qsample.models.energy import EnergyModel

    name = config.get("class")
    if asked is not EnergyModel:
        if asked.__name__ != name:
            raise ValueError(
                f"{folder} holds a {name}; expected a {asked.__name__}: "
                f"{name}.from_pretrained loads it"
            )
        return asked
    kind = getattr(qsample.models, name) if name in qsample.models.__all__ else None
    if not isinstance(kind, type) or not issubclass(kind, EnergyModel):
        raise ValueError(
            f"{folder} holds a {name}, which is no model of qsample: call from_pretrained of its "
            "own class"
        )
    return kind


def _tensors(folder: Path) -> tuple[bytes, dict[str, Tensor]]:
    """The bytes of the weights' file, and the tensors in it."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{folder} lacks {WEIGHTS}: {error.strerror}") from None
    try:
        return data, from_bytes(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: no safetensors ({_last_line(error)})") from None


def _made(
    folder: Path, config: dict[str, Any], kind: type, tensors: dict[str, Tensor]
) -> EnergyModel:
    """The untrained model, in the precision of its weights."""
    from qsample.models.registry import made

    # each unit has a bias at least, so that a forged size is refused before it takes memory
    most = sum(t.numel() for t in tensors.values() if t.is_floating_point())
    try:
        arguments = {k: _from_json(v, tensors) for k, v in config["arguments"].items()}
        model = made(kind, arguments, most)
    except (
        AttributeError,
        LookupError,
        MemoryError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{folder / CONFIG} is damaged: its {config['class']} cannot be made "
            f"({_last_line(error)})"
        ) from None
    dtypes = [t.dtype for n, t in tensors.items() if n in model.names]
    return model.to(dtypes[0]) if dtypes and dtypes[0].is_floating_point else model


def _from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_to_json` made JSON of."""
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$tensor"}:
        return tensors[value["$tensor"]]
    if set(value) == {"$tuple"}:
        return tuple(_from_json(item, tensors) for item in value["$tuple"])
    return {key: _from_json(item, tensors) for key, item in value.items()}


def _check_graph(folder: Path, got: Graph, expected: Graph) -> None:
    """A ValueError where the model is on another graph than the one that was named."""
    if got.hash != expected.hash:
        raise ValueError(
            f"{folder} holds a model on another graph: expected {_about(expected)}; got "
            f"{_about(got)}"
        )
    if list(got.labels) != list(expected.labels):
        pairs = zip(got.labels, expected.labels, strict=True)
        theirs, ours = next((a, b) for a, b in pairs if a != b)
        raise ValueError(
            f"{folder} holds a model on a graph with other labels: expected {ours!r}; got "
            f"{theirs!r}"
        )


def _about(graph: Graph) -> str:
    return (
        f"a {graph.kind} one of {graph.num_spins} spins and {graph.num_edges} edges "
        f"({graph.hash[:8]})"
    )


def _last_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
