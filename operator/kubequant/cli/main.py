"""`kubequant`: the command line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import yaml
from pydantic import ValidationError


@click.group()
@click.version_option(package_name="kubequant")
def main() -> None:
    """KubeQuant: quantised model serving on Kubernetes."""


@main.command()
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Configuration, YAML."
)
@click.option(
    "--kubeconfig", envvar="KUBECONFIG", type=click.Path(), help="Outside of a cluster: the kube-config file to use."
)
def operator(config_file: Path | None, kubeconfig: str | None) -> None:
    """Runs the operator."""
    from kubernetes.aio.config import ConfigException

    from kubequant.runtime.logs import configure
    from kubequant.runtime.operator import LeaseLostError, run
    from kubequant.runtime.settings import load_settings
    from kubequant.runtime.watching import WatchingFailedError

    try:
        settings = load_settings(config_file)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise click.ClickException(
            f"the configuration {config_file or 'from the environment'} cannot be used: {error}"
        ) from error
    configure(settings.log_format, settings.log_level)
    try:
        run(settings, kubeconfig)
    except (ConfigException, OSError) as error:
        raise click.ClickException(f"cannot start: {error}") from error
    except (LeaseLostError, WatchingFailedError) as error:
        logging.getLogger("kubequant").error("ends: %s", error)
        sys.exit(1)


@main.command()
def crds() -> None:
    """Prints the CustomResourceDefinitions."""
    from kubequant.api.crd import crd_yaml

    click.echo(crd_yaml(), nl=False)
