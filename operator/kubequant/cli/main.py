"""`kubequant`: the command line. Ends with 0, with 1 for a fault, 2 for misuse and 3 where nothing fits."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic import ValidationError

from kubequant.cli.faults import by_hand, sentences
from kubequant.cli.options import FindOptions, FleetOptions, Misuse, PlanOptions, source_of_arguments
from kubequant.cli.output import answering

if TYPE_CHECKING:  # imported where it is needed: --help must not wait for the operator's imports
    from kubequant.runtime.settings import Settings


_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_FILE_OR_INPUT = click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True)
_FOUND_OUT_LATER = click.Path(path_type=Path, readable=False)  # what is wrong with it is the command's answer
_CONFIG = click.option("--config", "config_file", type=_FILE, help="Configuration of the operator, YAML.")
_KUBECONFIG = click.option(
    "--kubeconfig", envvar="KUBECONFIG", type=click.Path(), help="Outside of a cluster: the kube-config file to use."
)
_GPU = click.option(
    "--gpu", "gpus", multiple=True, metavar="PRODUCT[:COUNT]",
    help="Plan on a node of COUNT (1) such GPUs, as in RTX-4090 or H100:8; may be repeated. Needs no cluster. Not with --fleet.",
)  # fmt: skip
_FLEET = click.option(
    "--fleet", "fleet_file", type=_FILE_OR_INPUT,
    help="Plan on the nodes in this file, which `kubectl get nodes -o yaml` printed; - for the standard input. "
    "Needs no cluster. Not with --gpu.",
)  # fmt: skip
_PRICE = click.option(
    "--price", "prices", multiple=True, metavar="PRODUCT=PRICE",
    help="Price of one such GPU an hour, in a unit of your own; may be repeated.",
)  # fmt: skip


@click.group()
@click.version_option(package_name="kubequant")
def main() -> None:
    """KubeQuant: quantised model serving on Kubernetes."""


@main.command()
@_CONFIG
@_KUBECONFIG
def operator(config_file: Path | None, kubeconfig: str | None) -> None:
    """Runs the operator."""
    from kubernetes.aio.config import ConfigException

    from kubequant.cli.cluster import check_kubeconfig
    from kubequant.runtime.logs import configure
    from kubequant.runtime.operator import LeaseLostError, run
    from kubequant.runtime.watching import WatchingFailedError

    settings = _settings(config_file)
    configure(settings.log_format, settings.log_level)
    try:
        if kubeconfig:
            check_kubeconfig(kubeconfig)
        run(settings, kubeconfig)
    except (Misuse, ConfigException, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from error
    except (LeaseLostError, WatchingFailedError) as error:
        logging.getLogger("kubequant").error("ends: %s", error)
        sys.exit(1)


@main.command()
@click.argument("source", required=False, metavar="[REPOSITORY]")
@click.option(
    "-f", "--file", "manifest", type=_FILE_OR_INPUT,
    help="Plan the QuantizedModel in this file; - for the standard input. Flags go before what it says.",
)  # fmt: skip
@click.option(
    "--model-path", "folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Plan the model in this folder; the headers of its weights are enough.",
)  # fmt: skip
@_GPU
@_FLEET
@_PRICE
@click.option("--context", "context_tokens", type=int, metavar="TOKENS", help="Longest request, prompt and answer.")
@click.option("--concurrency", "concurrent_requests", type=int, metavar="N", help="Requests at once; 16.")
@click.option("--tokens-per-request", type=int, metavar="TOKENS", help="What a request holds on average.")
@click.option("--scheme", help="Auto, Unquantized, W4A16, FP8, ...")
@click.option("--objective", help="LowestCost, LowestLatency, HighestThroughput or HighestQuality.")
@click.option("--kv-cache-dtype", help="Auto, BF16 or FP8.")
@click.option(
    "--throughput", type=float, metavar="TOKENS",
    help="Tokens a second that you measured of one replica: with a price, what a million tokens cost.",
)  # fmt: skip
@click.option(
    "--existing", is_flag=True,
    help="Take the checkpoint that exists before any that would have to be made, as the operator does.",
)  # fmt: skip
@click.option(
    "--no-discovery", "discovery", is_flag=True, flag_value=False, default=True,
    help="Do not look for published checkpoints of the model.",
)  # fmt: skip
@click.option("--diff", is_flag=True, help="With -f: what a replan would change of the model in the cluster.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml", "manifest"]), default="text", show_default=True,
    help="manifest: the Deployment that the operator would make.",
)  # fmt: skip
@_CONFIG
@_KUBECONFIG
def plan(
    source: str | None,
    manifest: Path | None,
    folder: Path | None,
    gpus: tuple[str, ...],
    fleet_file: Path | None,
    prices: tuple[str, ...],
    config_file: Path | None,
    kubeconfig: str | None,
    **flags: Any,
) -> None:
    """Shows what would be decided for a model, and why nothing else. Creates nothing.

    The model is a REPOSITORY of the Hub, a manifest or a folder; the GPUs are those of --gpu, of --fleet, or of the
    current cluster. Ends with 0 where it fits, 3 where it is refused, 2 for misuse.
    """
    repository, file, directory = source_of_arguments(source, manifest, folder)
    options = PlanOptions(
        repository=repository,
        manifest=file,
        folder=directory,
        fleet=FleetOptions(gpus, fleet_file, prices, kubeconfig),
        **flags,
    )
    with _faults_said():
        from kubequant.cli.planning import run_plan

        code = run_plan(options, _settings(config_file, misuse=True))
    sys.exit(code)


@main.command()
@click.argument("repository", metavar="REPOSITORY")
@click.option("--revision", help="Branch, tag or commit of it; main.")
@_GPU
@_FLEET
@click.option(
    "--publisher", "publishers", multiple=True, metavar="NAME",
    help="Trust this organisation of the Hub too, after those of the configuration; may be repeated.",
)  # fmt: skip
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Show every checkpoint that was rejected, not only the first five of each reason.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@_CONFIG
def find(
    repository: str,
    revision: str | None,
    gpus: tuple[str, ...],
    fleet_file: Path | None,
    publishers: tuple[str, ...],
    everything: bool,
    output: str,
    config_file: Path | None,
) -> None:
    """Finds published checkpoints of a model, and says which are trusted and why the others are not.

    REPOSITORY is the model, or a checkpoint of it. With --gpu or --fleet also what would be planned of them there. Ends
    with 0 where one is trusted, 3 where none is, 2 for misuse.
    """
    options = FindOptions(repository, revision, FleetOptions(gpus, fleet_file), publishers, everything, output)
    with _faults_said():
        from kubequant.cli.finding import run_find

        code = run_find(options, _settings(config_file, misuse=True))
    sys.exit(code)


@main.command()
@_FLEET
@_PRICE
@click.option("--known", is_flag=True, help="The table of GPUs that this release knows.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@_CONFIG
@_KUBECONFIG
def gpus(
    fleet_file: Path | None,
    prices: tuple[str, ...],
    known: bool,
    output: str,
    config_file: Path | None,
    kubeconfig: str | None,
) -> None:
    """Lists the GPUs of the cluster, or of a file, that plans can rest on."""
    with _faults_said():
        from kubequant.cli.gpus import run_gpus, run_known

        settings = _settings(config_file, misuse=True)
        if known:
            run_known(settings, output)
        else:
            run_gpus(FleetOptions((), fleet_file, prices, kubeconfig), settings, output)


@main.command()
@click.option(
    "--repository", metavar="OWNER/NAME", help="Describe a repository of the Hub, with the token in HF_TOKEN."
)
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of it.")
@click.option(
    "--endpoint",
    envvar="HF_ENDPOINT",
    default="https://huggingface.co",
    show_default=True,
    help="The Hub, or a mirror.",
)
@click.option(
    "--redirect-host", "redirect_hosts", multiple=True, metavar="HOST",
    help="The only hosts beside the endpoint's that redirects may lead to; may be repeated. Any, where none is named.",
)  # fmt: skip
@click.option("--ca-file", type=_FILE, help="PEM certificates to trust beside the public ones.")
@click.option("--folder", type=_FOUND_OUT_LATER, help="Describe the model in this folder.")
@click.option("--within", type=_FOUND_OUT_LATER, help="With --folder: no link may lead out of here.")
@click.option(
    "--termination-log", type=_FOUND_OUT_LATER, default=Path("/dev/termination-log"),
    show_default=True, help="Where a pod leaves its answer; written only if it is there.",
)  # fmt: skip
def inspect(
    repository: str | None,
    revision: str,
    endpoint: str,
    redirect_hosts: tuple[str, ...],
    ca_file: Path | None,
    folder: Path | None,
    within: Path | None,
    termination_log: Path,
) -> None:
    """Describes one model as the operator's inspector Jobs do, and prints what was found.

    Ends with 0 where it was described, 3 where it is refused, 1 where it may be later (the Hub does not answer), 2 for misuse.
    """
    if (repository is None) == (folder is None):
        raise click.UsageError("name one model: --repository OWNER/NAME or --folder DIR")
    from kubequant.cli.inspecting import HubOptions, InspectOptions, check, run_inspect

    hub = HubOptions(endpoint, redirect_hosts, ca_file)
    options = InspectOptions(repository, revision, hub, folder, within, termination_log)
    check(options)
    sys.exit(run_inspect(options))


@contextmanager
def _faults_said() -> Iterator[None]:
    """What keeps a command from an answer, in one line and without a stack trace."""
    from kubernetes.aio.config import ConfigException

    from kubequant.cluster.api import ApiError
    from kubequant.errors import KubeQuantError

    try:
        yield
    except (click.ClickException, BrokenPipeError):
        raise
    except KubeQuantError as error:
        raise click.ClickException(f"no answer yet ({error.reason}): {by_hand(error.message)}") from error
    except (ApiError, ConfigException) as error:
        raise click.ClickException(
            f"the cluster cannot be read: {error}. Without a cluster: --gpu PRODUCT or --fleet FILE"
        ) from error
    except OSError as error:
        own_words = error.errno is None
        raise Misuse(str(error) if own_words else f"cannot be read: {error}") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise click.ClickException(f"a fault of KubeQuant, please report it with what you asked: {cause}") from error


def _settings(config_file: Path | None, *, misuse: bool = False) -> Settings:
    from kubequant.runtime.settings import Settings, load_settings
    from kubequant.runtime.spelling import name_in_file

    try:
        return load_settings(config_file)
    except (ValidationError, yaml.YAMLError, TypeError, ValueError) as error:
        named = partial(name_in_file, Settings)
        said = sentences(error, named) if isinstance(error, ValidationError) else error
        problem = f"the configuration {config_file or 'from the environment'} cannot be used: {said}"
        raise (Misuse if misuse else click.ClickException)(problem) from error


@main.command()
def crds() -> None:
    """Prints the CustomResourceDefinitions."""
    from kubequant.api.crd import crd_yaml

    with answering():
        click.echo(crd_yaml(), nl=False)
