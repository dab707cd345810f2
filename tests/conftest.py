"""Hypothesis profiles.

No example has a time limit: machines are noisy, and timing says nothing about the code.
"""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "mutants",  # the same examples for each mutant, without shrinking the one that kills it
    settings.get_profile("untimed"),
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("untimed")
