"""``kdnas vocabulary``: a teacher with a reduced vocabulary."""

from __future__ import annotations

from kdnas_env.cli.console import SafeConsole
from kdnas_env.pipeline.vocabulary import VocabularyOptions, vocabulary
from kdnas_env.support.progress import ConsoleProgress
from kdnas_env.support.shell import command


def run_vocabulary(options: VocabularyOptions) -> int:
    """Make the teacher, and print the effects of its smaller vocabulary and its folder; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        cut = vocabulary(options, progress=progress)
    text = cut.text
    console.say(
        f"{cut.tokens:,} of {cut.tokens_before:,} tokens, {cut.parameters / 1e6:.2f} of "
        f"{cut.parameters_before / 1e6:.2f} million parameters"
    )
    console.say(
        f"in {text.rows:,} held-out rows of text, {text.covered:.2%} of the tokens are kept, and the others are split "
        f"into kept ones ({text.longer - 1:+.2%} tokens); {text.unknown:.3%} are unknown ({text.unknown_before:.3%} "
        "before)"
    )
    if cut.score is not None and cut.score_before is not None:
        console.say(f"score of the {cut.role}: {cut.score:.4f} ({cut.score_before:.4f} before)\n")
        console.say(f"{cut.role}: {cut.path} (README.md says how to use it)")
        return 0
    console.say(f"teacher: {cut.path}; search with")
    console.say(f"\n    {command('search', '--teacher', cut.path)}\n")
    return 0
