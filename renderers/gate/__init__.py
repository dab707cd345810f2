"""The gate: reads rendered files back and compares them with the composition before publication.

`check` is the one entry point. The gate shares no code with the renderer: `parsers` reads the
files with other parsers, `expectations` defines what each file must hold, `diff` compares the two.
`generated_files` and `static_files` do this for each file, with the assertions of `checks`.
`incremental` skips the models that have not changed since the last bundle that passed.
"""

from renderers.gate.generated_files import check

__all__ = ["check"]
