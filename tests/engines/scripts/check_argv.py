"""Asks vLLM's own parser and configuration about command lines.

Runs in the vLLM environment. Reads {"lines": [[argument, ...], ...], "configure": bool} from stdin; the last line of
stdout is a JSON list with an answer for each line.
"""

import argparse
import contextlib
import io
import json
import sys

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser


def parse(parser: FlexibleArgumentParser, line: list[str]) -> argparse.Namespace:
    """As `vllm serve` parses it. Raises `ValueError` with argparse's message."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            arguments = parser.parse_args(line)
    except SystemExit:
        raise ValueError(complaint.getvalue().strip().splitlines()[-1]) from None
    # The serve command moves its positional model to where the engine looks for it.
    if getattr(arguments, "model_tag", None) is not None:
        arguments.model = arguments.model_tag
    validate_parsed_serve_args(arguments)
    return arguments


def check(parser: FlexibleArgumentParser, line: list[str], configure: bool) -> dict[str, object]:
    try:
        arguments = parse(parser, line)
    except Exception as error:
        return {"parses": False, "configures": False, "error": str(error)}
    try:
        if configure:
            AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except Exception as error:
        return {"parses": True, "configures": False, "error": str(error)}
    return {"parses": True, "configures": configure, "error": ""}


def main() -> None:
    question = json.load(sys.stdin)
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    answers = [check(parser, line, question["configure"]) for line in question["lines"]]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
