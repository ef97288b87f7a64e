"""`kubequant`: the command line."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml
from pydantic import ValidationError

if TYPE_CHECKING:  # imported where it is needed: --help must not wait for the operator's imports
    from kubequant.runtime.settings import Settings


_CONFIG = click.option(
    "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Configuration, YAML."
)
_KUBECONFIG = click.option(
    "--kubeconfig", envvar="KUBECONFIG", type=click.Path(), help="Outside of a cluster: the kube-config file to use."
)


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

    from kubequant.runtime.logs import configure
    from kubequant.runtime.operator import LeaseLostError, run
    from kubequant.runtime.watching import WatchingFailedError

    settings = _settings(config_file)
    configure(settings.log_format, settings.log_level)
    try:
        run(settings, kubeconfig)
    except (ConfigException, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from error
    except (LeaseLostError, WatchingFailedError) as error:
        logging.getLogger("kubequant").error("ends: %s", error)
        sys.exit(1)


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_CONFIG
@_KUBECONFIG
def plan(manifest: Path, config_file: Path | None, kubeconfig: str | None) -> None:
    """Shows what would be decided for the QuantizedModel in MANIFEST on the nodes that the cluster has.

    Nothing is created. Ends with 2 when there is no plan.
    """
    from kubernetes.aio.config import ConfigException

    from kubequant.cli.planning import NotAModelError, planned, read_manifest
    from kubequant.cluster.api import ApiError
    from kubequant.errors import KubeQuantError

    settings = _settings(config_file)
    try:
        there_is_one, explanation = asyncio.run(planned(read_manifest(manifest), settings, kubeconfig))
    except KubeQuantError as error:
        click.echo(f"no plan ({error.reason}): {error.message}")
        sys.exit(2)
    except (ApiError, ConfigException, OSError) as error:
        raise click.ClickException(f"the cluster's nodes cannot be read: {error}") from error
    except (NotAModelError, ValidationError, yaml.YAMLError, ValueError) as error:
        raise click.ClickException(f"{manifest} cannot be planned: {error}") from error
    click.echo(explanation)
    sys.exit(0 if there_is_one else 2)


def _settings(config_file: Path | None) -> Settings:
    from kubequant.runtime.settings import load_settings

    try:
        return load_settings(config_file)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise click.ClickException(
            f"the configuration {config_file or 'from the environment'} cannot be used: {error}"
        ) from error


@main.command()
def crds() -> None:
    """Prints the CustomResourceDefinitions."""
    from kubequant.api.crd import crd_yaml

    click.echo(crd_yaml(), nl=False)
