"""`sluice`: one console command whose sub-commands load only what they need. Library: click."""

from __future__ import annotations

import sys
import traceback

import click

from sluice.console.lazy import LazyGroup
from sluice.errors import ConfigError, SluiceError

__all__ = ["main"]

# Command → (module:function, one line for --help). The modules are imported only when the command runs.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("sluice.console.demo:demo", "Replay MovieLens through the whole loop and watch it decide."),
    "infra": ("infra.cli:infra", "Start, stop and inspect a broker and a Redis."),
    "bucket": ("sluice.console.bucket:bucket", "The bucket of a unit, as Sluice or another tool places it."),
    "experiment": (
        "sluice.console.experiment:experiment",
        "Validate, publish, start, pause, stop and ship experiments.",
    ),
    "replay": ("producers.cli:replay", "Replay a ratings log as impressions and clicks."),
    "resolve": ("stream_processors.cli:resolve", "Give an existing click stream its assignments."),
    "process": ("stream_processors.cli:process", "Attribute and count, exactly once (a Faust worker)."),
    "features": ("stream_processors.cli:features", "Keep the features of users and items in Redis."),
    "route": ("router.cli:route", "Serve assignments, rankings and events over HTTP."),
    "analyze": ("analyzer.cli:analyze", "Turn counts into decisions."),
    "watch": ("sluice.console.watch:watch", "Subscribe to decisions or any other topic."),
    "counters": ("sluice.console.counters:counters", "Read the live counters."),
    "shadow": ("sluice.console.shadow:shadow", "What models say that score in the shadow of those shown."),
    "ope": ("analyzer.ope_command:ope", "Value other policies from what was logged."),
    "verify": ("stream_processors.cli:verify", "Recount the log and compare every integer."),
    "explain": ("analyzer.explain:explain", "Recompute a decision from its recorded evidence."),
    "report": ("dashboard.report_cli:report", "What an experiment found, as one HTML file to be mailed."),
    "simulate": ("analyzer.simulate.cli:simulate", "Measure error rates, coverage and regret on known truth."),
    "plan": ("analyzer.plan:plan", "Sample size, duration or smallest effect, before the start."),
    "compare": ("analyzer.compare:compare", "Every figure of two or more variants from plain counts."),
    "train": ("training.cli:train", "Train the models behind the variants, and measure them."),
    "evaluate": ("training.evaluate_cli:evaluate", "Compare the models offline, with a report."),
    "register": ("training.register_command:register", "Let aliases point to trained models that pass the gate."),
    "dashboard": ("dashboard.cli:dashboard", "The page that shows experiments as they run."),
    "retrain": ("training.retrain_command:retrain", "Train a model again from the log of what was shown."),
    "lifecycle": ("training.lifecycle_command:lifecycle", "Train and release a model, step by step, by itself."),
    "drift": ("stream_processors.drift_command:drift", "See whether the world, or a model, is not what it was."),
    "bench": ("sluice.console.bench:bench", "Measure against named baselines."),
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="sluice-experiments", prog_name="sluice")
def sluice(debug: bool) -> None:
    """Route live traffic between model variants, count exactly, move traffic to what works."""


def main(args: list[str] | None = None) -> None:
    """Entry point. Exit code 0 on success, 2 for wrong use, 1 for failure; one line an error."""
    arguments = sys.argv[1:] if args is None else args
    debug = "--debug" in arguments[:1]
    try:
        code = sluice.main(arguments, prog_name="sluice", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = f" (`{error.ctx.command_path} --help`)" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"sluice: {' '.join(error.format_message().split())}{where}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the one place where an error meets a person
        if debug:
            traceback.print_exc()
        else:
            kind = "" if isinstance(error, SluiceError) else f"{type(error).__name__}: "
            click.echo(f"sluice: {kind}{' '.join(str(error).split())}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
