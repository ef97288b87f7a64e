"""Command line: `python -m tests.localcluster up|down|status|kubeconfig|audit|build`."""

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from .build import PROGRAMS, ensure_programs
from .cluster import Cluster, all_clusters
from .errors import ClusterError
from .fleet import shipped_fleets


def main() -> int:
    """Run one command; exit status 1 and one message when it fails, 130 after Ctrl-C."""
    # A start that is told to end must clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing that was being started is left running", file=sys.stderr)
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.localcluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a cluster, or adopt it when it runs")
    up.add_argument(
        "--gpu-nodes", action="append", default=[], metavar="FILE",
        help=f"KWOK nodes from a YAML file or a shipped fleet ({', '.join(shipped_fleets())}); repeatable",
    )  # fmt: skip
    up.add_argument(
        "--real-node", action="store_true", help="also a kubelet that runs pods, with fake GPUs; needs root"
    )
    up.add_argument("--real-node-file", type=Path, metavar="FILE", help="what it pretends to have, like real-node.yaml")
    up.add_argument("--fresh", action="store_true", help="end a running cluster of this name first")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end a cluster and remove its folder")
    down.add_argument("--all", action="store_true", help="every cluster of this cache folder")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="clusters and their components")
    status.set_defaults(run=_status)

    kubeconfig = commands.add_parser("kubeconfig", help="print the path of the admin's kubeconfig")
    kubeconfig.set_defaults(run=_kubeconfig)

    audit = commands.add_parser("audit", help="count requests by user, verb and resource")
    audit.add_argument("--user", metavar="PREFIX", help="only users whose name begins so")
    audit.add_argument("--verb", action="append", help="only this verb; repeatable")
    audit.add_argument("--rejected", action="store_true", help="only requests answered with 400 and above")
    audit.set_defaults(run=_audit)

    build = commands.add_parser("build", help="build the binaries into the cache folder")
    build.add_argument("programs", nargs="*", default=list(PROGRAMS), help=f"of: {', '.join(PROGRAMS)}")
    build.set_defaults(run=_build)

    for command in (up, down, kubeconfig, audit):
        command.add_argument("--name", default="default", help="the cluster (default: %(default)s)")
    return parser


def _up(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    cluster = Cluster.up(
        arguments.name, arguments.gpu_nodes, arguments.real_node, arguments.real_node_file, arguments.fresh
    )
    print(f"cluster {cluster.name} is up after {time.monotonic() - started:.1f} s, logs in {cluster.directory / 'log'}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(arguments: argparse.Namespace) -> None:
    clusters = all_clusters() if arguments.all else [_find(arguments.name)]
    for cluster in clusters:
        cluster.down()
        print(f"cluster {cluster.name} is down")


def _status(_arguments: argparse.Namespace) -> None:
    for cluster in all_clusters():
        print(f"{cluster.name}: {'running' if cluster.is_running() else 'NOT running'}, {cluster.server}")
        for name, pid in cluster.component_pids().items():
            print(f"  {name:20} {'pid ' + str(pid) if pid else 'not running'}")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    path: Path = _find(arguments.name).kubeconfig
    print(path)


def _audit(arguments: argparse.Namespace) -> None:
    counts = _find(arguments.name).audit_counts(arguments.user, arguments.verb, rejected_only=arguments.rejected)
    for key, number in counts.most_common():
        resource = f"{key.resource}/{key.subresource}" if key.subresource else key.resource
        print(f"{number:7} {key.user:60} {key.verb:17} {resource}")


def _build(arguments: argparse.Namespace) -> None:
    if unknown := sorted(set(arguments.programs) - set(PROGRAMS)):
        raise ClusterError(f"unknown program {', '.join(unknown)}; known are {', '.join(PROGRAMS)}")
    for path in ensure_programs(arguments.programs).values():
        print(path)


def _find(name: str) -> Cluster:
    cluster = Cluster.find(name)
    if cluster is None:
        raise ClusterError(f"there is no cluster {name}: `python -m tests.localcluster up --name {name}` makes it")
    return cluster


if __name__ == "__main__":
    sys.exit(main())
