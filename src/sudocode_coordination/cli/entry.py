"""Entry points of the console scripts. Nothing is imported before it is known what is asked for."""

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def main() -> int:
    """`coord …`."""
    import sys

    return _coord(sys.argv[1:], "coord")


def sudocode_main() -> int:
    """`sudocode coord …` is `coord …`; every other `sudocode` subcommand belongs to the next `sudocode` on PATH."""
    import sys

    if sys.argv[1:2] == ["coord"]:
        return _coord(sys.argv[2:], "sudocode coord")
    from sudocode_coordination.cli.passing import pass_on

    return pass_on(sys.argv)


def _coord(argv: list[str], prog: str) -> int:
    try:
        if argv[:1] == ["check"]:
            from sudocode_coordination.cli.fast import fast_check

            code = fast_check(argv[1:])
            if code is not None:
                return code
        if argv[:1] == ["hook"] and "--help" not in argv and "-h" not in argv:
            from sudocode_coordination.hooks.agents import run as run_hook

            return run_hook(argv[1:])
        from sudocode_coordination.cli.run import run

        return run(argv, prog)
    except KeyboardInterrupt:
        return INTERRUPTED
